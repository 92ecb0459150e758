"""The damage of every candidate: measured one by one, or estimated for all from gradients."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.errors import CheckError, InputError
from dcnify.inherit.distance import are_logits
from dcnify.progress import silent
from dcnify.search.choose.prediction import Effects, agreement, damage
from dcnify.search.fisher import score_by_gradients
from dcnify.search.measured import Measured, Store
from dcnify.search.place import Place
from dcnify.search.verify import measure_alone
from dcnify.surgery.new_modules import new_modules


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


def score(place: Place, store: Store, say: Callable[[str], None]) -> Scores:
    """Score every candidate, as the request says.

    Raises:
        InputError: gradients are asked for, and the model does not give them.
        CheckError: no candidate can be swapped.
    """
    outputs = place.outputs(place.model)
    empty = outputs.new_zeros((0, *outputs.shape))
    logits = are_logits(outputs, place.model)
    original = Effects(outputs, empty, logits)
    if place.spec.score == "fisher":
        return _by_gradients(place, original)
    alone: dict[str, Measured] = {}
    for done, path in enumerate(place.paths):
        place.progress("measuring swaps", done, len(place.paths))
        alone[path] = found = measure_alone(place, store, path)
        say(f"[{done + 1}/{len(place.paths)}] {_told(found, outputs, logits)}")
    usable = tuple(path for path, one in alone.items() if one.outputs is not None)
    if not usable:
        raise CheckError(f"no layer can be swapped: {next(iter(alone.values())).refused}")
    changes = torch.stack([_outputs(alone[path]) - outputs for path in usable])
    return Scores(Effects(outputs, changes, logits), original, usable, alone)


def _by_gradients(place: Place, original: Effects) -> Scores:
    began = time.perf_counter()
    if not original.are_logits:
        raise InputError("--score fisher needs a model whose output is (B, classes)")
    fresh, _warnings = new_modules(place.model, place.plan, place.found, place.spec.seed, silent)
    effects, sqnr = score_by_gradients(place.model, fresh, place.images.calls, place.progress)
    seconds = round((time.perf_counter() - began) / len(fresh), 3)
    alone = {
        path: Measured((path,), None, sqnr_db={path: sqnr[path]}, seconds=seconds)
        for path in place.paths
    }
    return Scores(effects, original, place.paths, alone)


def _told(found: Measured, outputs: Tensor, logits: bool) -> str:
    (path,) = found.paths
    if found.outputs is None:
        return f"{path}: {found.refused}"
    harm = damage(outputs, found.outputs, logits)
    if not logits:
        return f"{path}: squared relative error {harm:.3g}, {found.seconds:.1f} s"
    same = agreement(outputs, found.outputs)
    return f"{path}: KL {harm:.3g}, agreement {same:.1%}, {found.seconds:.1f} s"


def _outputs(found: Measured) -> Tensor:
    assert found.outputs is not None
    return found.outputs
