"""From predictions and a budget to sets: the goal, three methods, and the nearest if none fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dcnify.search.choose.budget import COSTS, Bound, Budget
from dcnify.search.choose.methods import (
    Chosen,
    Problem,
    Vector,
    by_greed,
    by_milp,
    by_reverting,
    exchanged,
    nearest,
    with_agreement,
)
from dcnify.search.choose.prediction import Prediction

_PASSES = 3
_EXCHANGED = 48
"""Most candidates of which every pair is tried in exchange."""
_DAMAGE: tuple[Vector | str, ...] = ("damage",)
MILP, GREEDY, REVERT = "milp", "greedy", "revert the worst"


@dataclass(frozen=True)
class Decision:
    """The sets that the methods choose."""

    goal: str
    """What is best among the sets that the budget allows, in words."""
    chosen: dict[str, Chosen | None]
    """By method; None where it finds no set within the budget."""
    nearest: Chosen | None = None
    """The set that misses the budget by least, if none is within it."""


def decide(
    prediction: Prediction,
    budget: Budget,
    worst_first: Sequence[int],
    refused: Sequence[Chosen] = (),
) -> Decision:
    """Choose a set by each method.

    The goal follows from the budget. Where it bounds what the model keeps (``kl``, ``agreement``),
    the cheapest set is looked for, by the first cost that it names, else by latency. Otherwise the
    set of least damage is. Where that would be no swap at all, because the original is within the
    budget and no swap is a gain, as many layers are swapped as the budget allows.

    Args:
        prediction: of every set.
        budget: what holds of the set.
        worst_first: candidates in the order in which they would be reverted.
        refused: sets that cannot be used, nor any set that holds one of them.
    """
    asked = [bound.quantity for bound in budget if not bound.is_implied]
    keeps = "kl" in asked or "agreement" in asked
    named = [bound.quantity for bound in budget if bound.quantity in COSTS]
    cost = (*named, "latency")[0]
    goal, minimise = "least damage", _DAMAGE
    if keeps:
        goal, minimise = f"lowest {cost}", (_relative(prediction, cost), *_DAMAGE)
    none = np.zeros(prediction.count, bool)
    values = prediction.values(none)
    if all(bound.is_met(values) for bound in budget):
        empty_is_best = not keeps or not (_relative(prediction, cost) < 0).any()
        chosen = (
            None if empty_is_best else _by(MILP, prediction, budget, minimise, worst_first, refused)
        )
        if chosen is None or not chosen.any():
            goal, minimise = "most layers", (-np.ones(prediction.count), *_DAMAGE)
    found = {
        method: _by(method, prediction, budget, minimise, worst_first, refused)
        for method in (MILP, GREEDY, REVERT)
    }
    if found[MILP] is not None:
        return Decision(goal, found)
    closest = nearest(_problem(prediction, budget, _DAMAGE, refused))
    return Decision(goal, found, closest)


def _by(
    method: str,
    prediction: Prediction,
    budget: Budget,
    minimise: tuple[Vector | str, ...],
    worst_first: Sequence[int],
    refused: Sequence[Chosen],
) -> Chosen | None:
    """The set that a method chooses.

    How much each change counts depends on the set, and the method needs it beforehand: it is taken
    of every second layer, then of the set that came out, and so on.
    """
    methods: dict[str, Callable[[Problem], Chosen | None]] = {
        MILP: by_milp,
        GREEDY: by_greed,
        REVERT: lambda problem: by_reverting(problem, worst_first),
    }
    damages = [bound for bound in budget if bound.quantity in ("kl", "agreement")]

    def holds(chosen: Chosen) -> bool:
        values = prediction.values(chosen)
        return all(bound.is_met(values) for bound in damages)

    def value(chosen: Chosen) -> tuple[float, ...]:
        harm = prediction.effects.damage(chosen)
        return tuple(harm if isinstance(one, str) else float(one @ chosen) for one in minimise)

    near = np.arange(prediction.count) % 2 == 0
    best: Chosen | None = None
    for _ in range(_PASSES):
        problem = _problem(prediction, budget, minimise, refused, near)
        if damages:
            chosen = with_agreement(problem, methods[method], holds)
        else:
            chosen = methods[method](problem)
        if chosen is None:
            break
        if best is None or value(chosen) < value(best):
            best = chosen
        if (chosen == near).all():
            break
        near = chosen
    if method != MILP or best is None or prediction.count > _EXCHANGED:
        return best
    return exchanged(best, value, lambda one: problem.allows(one) and holds(one))


def _problem(
    prediction: Prediction,
    budget: Budget,
    minimise: tuple[Vector | str, ...],
    refused: Sequence[Chosen],
    near: Chosen | None = None,
) -> Problem:
    """The budget's linear bounds, as rows; damage is bounded by who asks for it."""
    count = prediction.count
    rows, limits = [-np.ones(count)], [-1.0]  # no empty set
    for bound in budget:
        if bound.quantity not in ("kl", "agreement"):
            row, limit = _row(prediction, bound)
            rows.append(row)
            limits.append(limit)
    for one in refused:
        rows.append(one.astype(float))
        limits.append(one.sum() - 1.0)
    damage = prediction.effects.matrix(near)
    return Problem(damage, np.array(rows), np.array(limits), minimise=minimise)


def _row(prediction: Prediction, bound: Bound) -> tuple[Vector, float]:
    sign = 1.0 if bound.sense == "<=" else -1.0
    if bound.quantity == "sites":
        count = bound.value * prediction.count if bound.is_ratio else bound.value
        whole = np.floor(count + 1e-9) if sign > 0 else np.ceil(count - 1e-9)
        return sign * np.ones(prediction.count), sign * whole
    cost = prediction.costs[bound.quantity]
    ratio = bound.value if bound.is_ratio else bound.value / cost.original
    return _relative(prediction, bound.quantity), ratio - 1.0


def _relative(prediction: Prediction, cost: str) -> Vector:
    """What each swap adds to a cost, as a share of the original's."""
    one = prediction.costs[cost]
    return one.added / one.original
