"""The damage of every candidate: measured one by one, or estimated for all from gradients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from dcnify.errors import CheckError, InputError
from dcnify.inherit.distance import are_logits
from dcnify.progress import silent
from dcnify.search.choose.methods import Chosen, names_of
from dcnify.search.choose.prediction import Effects, agreement, damage
from dcnify.search.fisher import score_by_gradients
from dcnify.search.measured import Measured, Store
from dcnify.search.place import Place
from dcnify.search.verify import measure
from dcnify.surgery.new_modules import new_modules

_SETS = ("all", "every second", "the first half", "the last half")
_FEWEST = 4
"""Candidates from which on sets are measured to see how damages add up."""


@dataclass(frozen=True)
class Scores:
    """The candidates that can be swapped, and what each does to the output."""

    effects: Effects
    """Of the candidates that can be swapped, in the plan's order."""
    original: Effects
    """The original's outputs alone, all of them."""
    usable: tuple[str, ...]
    alone: dict[str, Measured]
    """Every candidate by path; without outputs where they are estimated."""
    sets: tuple[tuple[Chosen, float], ...] = ()
    """Sets of `usable` that were measured to see how damages add up, with their damage."""


def score(place: Place, store: Store, say: Callable[[str], None]) -> Scores:
    """Score every candidate, as the request says.

    Raises:
        InputError: the original's output is not finite, or it does not give the gradients that
            are asked for.
        CheckError: no candidate can be swapped.
    """
    outputs = place.outputs(place.model)
    if not torch.isfinite(outputs).all():
        raise InputError(f"{place.source.spec} itself gives NaN or infinities on the images")
    empty = outputs.new_zeros((0, *outputs.shape))
    logits = are_logits(outputs, place.model)
    original = Effects(outputs, empty, logits)
    if place.spec.score == "fisher":
        scores = _by_gradients(place, original)
    else:
        scores = _by_measuring(place, store, say, original)
    if not scores.usable:
        raise CheckError(f"no layer can be swapped: {next(iter(scores.alone.values())).refused}")
    return _with_sets(place, store, say, scores)


def _by_measuring(
    place: Place, store: Store, say: Callable[[str], None], original: Effects
) -> Scores:
    alone: dict[str, Measured] = {}
    for done, path in enumerate(place.paths):
        place.progress("measuring swaps", done, len(place.paths))
        alone[path] = one = measure(place, store, [path])
        say(f"[{done + 1}/{len(place.paths)}] {path}: {_harm(one, original)}")
    found = {path: one.outputs for path, one in alone.items() if one.outputs is not None}
    changes = [one - original.original for one in found.values()]
    effects = replace(original, changes=torch.stack(changes)) if changes else original
    return Scores(effects, original, tuple(found), alone)


def _with_sets(place: Place, store: Store, say: Callable[[str], None], scores: Scores) -> Scores:
    """The scores with effects that fit the damage of sets: all, every second, and both halves."""
    count = len(scores.usable)
    if count < _FEWEST:
        return scores
    places, outputs, original = np.arange(count), [], scores.original
    asked = (places >= 0, places % 2 == 0, places < count // 2, places >= count // 2)
    for done, chosen in enumerate(asked):
        place.progress("measuring sets", done, len(asked))
        found = measure(place, store, names_of(chosen, scores.usable))
        say(f"{_SETS[done]} of {count} layers: {_harm(found, original)}")
        if found.outputs is not None:
            outputs.append((chosen, found.outputs))
    effects, before = scores.effects, original.original
    if effects.original is before:  # gradients know some of the logits only
        effects = effects.cohering_as(outputs)
    sets = tuple((one, damage(before, found, original.are_logits)) for one, found in outputs)
    effects = effects.fitted_to(sets)
    if original.are_logits:
        effects = effects.agreeing_as([(one, agreement(before, found)) for one, found in outputs])
    return replace(scores, effects=effects, sets=sets)


def _by_gradients(place: Place, original: Effects) -> Scores:
    began = time.perf_counter()
    if not original.are_logits:
        raise InputError("--score fisher needs a model whose output is (B, classes)")
    fresh, _warnings = new_modules(place.model, place.plan, place.found, place.spec.seed, silent)
    effects, sqnr = score_by_gradients(place.model, fresh, place.images.calls, place.progress)
    seconds = round((time.perf_counter() - began) / len(fresh), 3)
    alone = {
        path: Measured(
            (path,),
            None,
            sqnr_db={path: sqnr[path]},
            refused="" if sqnr[path] > -math.inf else "the new layer gives NaN or infinities",
            seconds=seconds,
        )
        for path in place.paths
    }
    usable = [index for index, path in enumerate(place.paths) if not alone[path].refused]
    effects = replace(effects, changes=effects.changes[usable])
    return Scores(effects, original, tuple(place.paths[index] for index in usable), alone)


def _harm(found: Measured, original: Effects) -> str:
    """What a set does to the output, in words."""
    if found.outputs is None:
        return f"refused: {found.refused}"
    before, logits = original.original, original.are_logits
    harm, took = damage(before, found.outputs, logits), f"{found.seconds:.1f} s"
    if not logits:
        return f"squared relative error {harm:.3g}, {took}"
    return f"KL {harm:.3g}, agreement {agreement(before, found.outputs):.1%}, {took}"
