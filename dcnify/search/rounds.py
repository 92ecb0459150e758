"""Choose a set, convert it, compare what was predicted with what is measured, and correct once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dcnify.search.choose.budget import NOISE, Budget, misses
from dcnify.search.choose.decide import MILP, Decision, decide
from dcnify.search.choose.methods import Chosen, names_of
from dcnify.search.choose.prediction import Prediction
from dcnify.search.measured import size_of
from dcnify.search.result import NOTHING, Round, Values
from dcnify.search.verify import RefusedSetError, Verified

_ROUNDS = 2
_SETS = 3
"""Sets to refuse as they are; of every further one the worst layer is refused."""


@dataclass(frozen=True)
class Outcome:
    """What came of the rounds."""

    first: Decision
    """From the predictions alone."""
    rounds: tuple[Round, ...]
    verified: Verified | None
    """The set that was measured to be within the budget."""
    closest: Values
    """The measured or predicted set that misses the budget by least, where none is within it."""
    refused: tuple[str, ...] = ()
    """Why sets could not be used."""


def choose_and_verify(
    prediction: Prediction,
    budget: Budget,
    paths: Sequence[str],
    worst_first: Sequence[int],
    measured: Sequence[tuple[Chosen, float]],
    convert: Callable[[tuple[str, ...]], Verified],
    say: Callable[[str], None],
) -> Outcome:
    """Choose by the predictions, verify, and once more with predictions that were corrected.

    A set that cannot be used once it is converted is refused, and another is chosen in its place.

    Args:
        prediction: of every set of ``paths``.
        budget: what holds of the set.
        paths: the candidates.
        worst_first: their indices in the order in which they would be reverted.
        measured: sets of which the damage is known.
        convert: measures a set; raises `RefusedSetError` for one that cannot be used.
        say: called with a line for each set that was measured.
    """
    first = decision = decide(prediction, budget, worst_first)
    rounds: list[Round] = []
    sets = list(measured)
    good: dict[tuple[str, ...], Verified] = {}
    closest = prediction.values(decision.nearest) if decision.nearest is not None else {}
    refused: list[Chosen] = []
    why: list[str] = []
    tried: set[tuple[str, ...]] = set()
    while len(rounds) < _ROUNDS:
        chosen = decision.chosen[MILP]
        names = names_of(chosen, paths)
        if chosen is None or names in tried:
            break
        tried.add(names)
        try:
            verified = convert(names)
        except RefusedSetError as error:
            why.append(str(error))
            refused.append(_refused(chosen, worst_first, paths, why, say))
            decision = decide(prediction, budget, worst_first, refused)
            continue
        made = compare(names, prediction.values(chosen), verified.values, budget)
        rounds.append(made)
        say(_told(made))
        if not made.missed:
            good[names] = verified
        closest = verified.values
        if made.is_predicted and not made.missed:
            break
        sets.append((chosen, verified.values[prediction.effects.measure] or 0.0))
        prediction = corrected(prediction, chosen, verified.values, sets)
        decision = decide(prediction, budget, worst_first, refused)
    best = _best(good, first.goal, rounds)
    return Outcome(first, tuple(rounds), best, closest, tuple(why))


def _refused(
    chosen: Chosen,
    worst_first: Sequence[int],
    paths: Sequence[str],
    why: Sequence[str],
    say: Callable[[str], None],
) -> Chosen:
    """The layers that may not be together again; says so."""
    if len(why) <= _SETS:
        say(f"{why[-1]}; another set is chosen")
        return chosen
    worst = next(index for index in worst_first if chosen[index])
    say(f"{why[-1]}; {paths[worst]}, the worst of them, is left out from here on")
    return np.arange(len(chosen)) == worst


def compare(names: tuple[str, ...], predicted: Values, measured: Values, budget: Budget) -> Round:
    """A round: what was missed of the budget, and how far predictions were off."""
    off = {}
    for name in ("kl", "error", "latency_ratio"):
        guess, found = predicted.get(name), measured.get(name)
        if guess is None or found is None or max(guess, found) < NOTHING:
            continue
        off[name.removesuffix("_ratio")] = guess / max(found, 1e-12) - 1
    return Round(names, predicted, measured, tuple(misses(budget, measured, NOISE)), off)


def corrected(
    prediction: Prediction,
    chosen: Chosen,
    measured: Values,
    sets: Sequence[tuple[Chosen, float]],
) -> Prediction:
    """The prediction fitted to all ``sets``, and scaled to what was measured of ``chosen``."""
    effects, costs = prediction.effects, dict(prediction.costs)
    if len(sets) > 1:
        effects = effects.fitted_to(sets)
    harm = measured.get(effects.measure)
    if harm is not None and effects.damage(chosen) > 0:
        effects = effects.scaled_to(chosen, harm)
    kept = measured.get("agreement")
    if kept is not None:
        effects = effects.agreeing_as([(chosen, kept)])
    for name, cost in costs.items():
        ratio = measured.get(f"{name}_ratio")
        if ratio is not None:
            costs[name] = cost.scaled_to(chosen, ratio * cost.original)
    return replace(prediction, effects=effects, costs=costs)


def _best(
    good: dict[tuple[str, ...], Verified], goal: str, rounds: Sequence[Round]
) -> Verified | None:
    """Of the measured sets within the budget the one that reaches the goal best; the last of
    equals."""

    def rank(names: tuple[str, ...]) -> tuple[float, int]:
        values = good[names].values
        harm = values.get("kl") if values.get("kl") is not None else values.get("error")
        by_goal = {"least damage": harm, "most layers": -float(len(names))}
        cost = values.get(f"{goal.removeprefix('lowest ')}_ratio")
        value = by_goal.get(goal, cost)
        order = next(i for i, one in enumerate(rounds) if one.paths == names)
        return (float("inf") if value is None else value), -order

    return good[min(good, key=rank)] if good else None


def _told(made: Round) -> str:
    parts = [f"{size_of(len(made.paths))} converted"]
    for name, error in made.off.items():
        key = name if name in made.measured else f"{name}_ratio"
        key = f"{name}_ratio" if name == "latency" else key
        text = f"{made.predicted[key]:.3g} predicted, {made.measured[key]:.3g} measured"
        parts.append(f"{'KL' if name == 'kl' else name} {text} ({error:+.0%})")
    if made.missed:
        parts.append(f"misses {', '.join(made.missed)}")
    if made.missed or not made.is_predicted:
        parts.append("predictions are corrected")
    return "; ".join(parts)
