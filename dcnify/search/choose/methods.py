"""The choice of a set: arrays in, a set out. Nothing here knows a model.

The damage of a set is quadratic: the sum of a matrix over the pairs of its members, so that two
swaps that push the output the same way cost more than their sum. Products of decisions become
variables of their own, which keeps the problem a mixed-integer linear one. LANA (arXiv 2107.10624)
and Puzzle (arXiv 2411.19146) choose a layer's replacement by such a program, from scores of each
replacement alone that add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Chosen = NDArray[np.bool_]
"""Which candidates are in the set."""

_MOST_PAIRS = 300
"""Products in one program; of more, those of the largest damage."""
_SECONDS = 60.0
_HALVINGS = 12
_TOLERANCE = 1e-6
_DAMAGE = "damage"


@dataclass(frozen=True)
class Problem:
    """Which sets are allowed, and which of them is best."""

    damage: Vector
    """(n, n): symmetric. The sum over the members' rows and columns is the damage of a set."""
    rows: Vector
    """(m, n): what each candidate adds to each bounded quantity."""
    limits: Vector
    """(m,): a set is allowed if ``rows @ set <= limits``."""
    most_damage: float = np.inf
    minimise: tuple[Vector | str, ...] = (_DAMAGE,)
    """In turn: ``damage``, or a (n,) vector whose sum over the set is meant."""

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.damage)

    def damage_of(self, chosen: Chosen) -> float:
        """The damage of a set."""
        return float(chosen @ self.damage @ chosen)

    def violation(self, chosen: Chosen) -> float:
        """The sum of what a set exceeds its limits by; 0 for one that is allowed."""
        over = np.maximum(self.rows @ chosen - self.limits, 0)
        total = float(over[over > _TOLERANCE].sum())
        if np.isfinite(self.most_damage):
            scale = max(self.most_damage, 1e-12)
            excess = self.damage_of(chosen) / scale - 1
            total += excess if excess > _TOLERANCE else 0.0
        return total

    def allows(self, chosen: Chosen) -> bool:
        """Whether a set is within all limits."""
        return self.violation(chosen) == 0

    def value_of(self, chosen: Chosen) -> tuple[float, ...]:
        """What is minimised, of a set."""
        return tuple(
            self.damage_of(chosen) if isinstance(one, str) else float(one @ chosen)
            for one in self.minimise
        )


def by_milp(problem: Problem) -> Chosen | None:
    """The best allowed set, by `scipy.optimize.milp`; None if no set is allowed."""
    found, rows, limits = None, problem.rows, problem.limits
    most_damage = problem.most_damage
    for goal in problem.minimise:
        now = replace(problem, rows=rows, limits=limits, most_damage=most_damage)
        better = _solve(now, goal)
        if better is None:
            return found
        found = better
        if isinstance(goal, str):
            most_damage = min(most_damage, problem.damage_of(found))
        else:
            rows = np.vstack((rows, goal))
            limits = np.append(limits, goal @ found + _TOLERANCE)
    return found


def nearest(problem: Problem) -> Chosen:
    """The set that exceeds the limits of `rows` by least, and of those the one of least damage."""
    elastic = _solve(problem, _DAMAGE, elastic=True)
    return elastic if elastic is not None else np.zeros(problem.count, bool)


def by_greed(problem: Problem) -> Chosen | None:
    """Add what brings most for its damage until the set is allowed, then while it gets better.

    None if that ends at no set that is allowed.
    """
    chosen = np.zeros(problem.count, bool)

    def closer(more: Chosen) -> float:
        """What more swaps take away of what exceeds the limits."""
        return problem.violation(chosen) - problem.violation(more)

    def better(more: Chosen) -> float:
        """What more swaps improve of the goal."""
        gained = problem.value_of(chosen)[0] - problem.value_of(more)[0]
        return gained if problem.allows(more) else 0.0

    while not problem.allows(chosen):
        step = _best(problem, chosen, closer)
        if step is None:
            return None
        chosen = step
    while (step := _best(problem, chosen, better)) is not None:
        chosen = step
    return chosen


def by_reverting(problem: Problem, worst_first: Sequence[int]) -> Chosen | None:
    """Start from all candidates and revert the worst until the set is allowed.

    Go on while it stays so and gets better. None if no set on the way is allowed.
    """
    chosen, best = np.ones(problem.count, bool), None
    for index in (None, *worst_first):
        if index is not None:
            chosen = chosen & (np.arange(problem.count) != index)
        if not problem.allows(chosen):
            if best is not None:
                break
            continue
        if best is not None and problem.value_of(chosen) >= problem.value_of(best):
            break
        best = chosen
    return best


def exchanged(
    chosen: Chosen,
    value: Callable[[Chosen], tuple[float, ...]],
    allows: Callable[[Chosen], bool],
) -> Chosen:
    """Put single candidates in, out, or in for another while that makes ``value`` less.

    A program needs the damage as a sum over pairs. ``value`` is of the prediction itself.
    """
    best, least = chosen, value(chosen)
    for _ in range(len(chosen)):
        inside, outside = np.flatnonzero(best), np.flatnonzero(~best)
        flips = [(i,) for i in range(len(best))] + [(i, j) for i in inside for j in outside]
        tried = [best ^ np.isin(np.arange(len(best)), flip) for flip in flips]
        values = [(value(one), k) for k, one in enumerate(tried) if allows(one)]
        if not values or not min(values)[0] < least:
            return best
        least, k = min(values)
        best = tried[k]
    return best


def names_of(chosen: Chosen | None, names: Sequence[str]) -> tuple[str, ...]:
    """The members of a set by their names."""
    return () if chosen is None else tuple(names[int(i)] for i in np.flatnonzero(chosen))


def with_agreement(
    problem: Problem,
    method: Callable[[Problem], Chosen | None],
    agrees: Callable[[Chosen], bool],
) -> Chosen | None:
    """Choose so that ``agrees`` holds of the set, too.

    How often two models agree is not a sum over layers, but it falls as the damage grows: the most
    damage at which the method's choice still agrees is found by bisection.
    """
    chosen = method(problem)
    if chosen is None or agrees(chosen):
        return chosen
    best = None
    low, high = 0.0, min(problem.most_damage, problem.damage_of(chosen))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        chosen = method(replace(problem, most_damage=middle))
        if chosen is not None and not agrees(chosen):
            high = min(middle, problem.damage_of(chosen))
            continue
        low, best = middle, best if chosen is None else chosen
    return best


def _best(problem: Problem, chosen: Chosen, gain: Callable[[Chosen], float]) -> Chosen | None:
    """The set with the one more candidate of the highest gain per damage; None if none gains."""
    before, best, best_rate = problem.damage_of(chosen), None, 0.0
    for index in np.flatnonzero(~chosen):
        more = chosen.copy()
        more[index] = True
        gained = gain(more)
        if gained <= _TOLERANCE:
            continue
        rate = gained / max(problem.damage_of(more) - before, 1e-12)
        if rate > best_rate:
            best, best_rate = more, rate
    return best


def _solve(problem: Problem, goal: Vector | str, *, elastic: bool = False) -> Chosen | None:
    """One program; ``elastic`` lets limits be exceeded, at a price above all else."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, scale = problem.count, float(np.abs(problem.damage).sum()) or 1.0
    damage = problem.damage / scale
    pairs = _pairs(damage)
    p, m = len(pairs), len(problem.limits)
    slacks = m if elastic else 0
    damages = np.concatenate(
        (np.diag(damage), [2 * damage[i, j] for i, j in pairs], np.zeros(slacks))
    )
    matrix = np.hstack((problem.rows, np.zeros((m, p))))
    if elastic:
        matrix = np.hstack((matrix, -np.eye(m)))
    rows, highest = [*matrix], [*problem.limits]
    for k, (i, j) in enumerate(pairs):
        for row, limit in _product(n, p + slacks, k, i, j, above=damage[i, j] > 0):
            rows.append(row)
            highest.append(limit)
    if np.isfinite(problem.most_damage) and not elastic:
        rows.append(damages)
        highest.append(problem.most_damage / scale + _TOLERANCE * 1e-3)
    linear = None if isinstance(goal, str) else np.concatenate((goal, np.zeros(p + slacks)))
    cost = damages.copy() if linear is None else linear
    if elastic:
        cost[n + p :] = 1e3
    upper = np.concatenate((np.ones(n + p), np.full(slacks, np.inf)))
    found = milp(
        cost,
        integrality=np.concatenate((np.ones(n), np.zeros(p + slacks))),
        bounds=Bounds(np.zeros(n + p + slacks), upper),
        constraints=[LinearConstraint(np.array(rows), ub=np.array(highest))] if rows else None,
        options={"time_limit": _SECONDS, "mip_rel_gap": 1e-6},
    )
    return None if found.x is None else found.x[:n] > 0.5


def _pairs(damage: Vector) -> list[tuple[int, int]]:
    """The pairs of candidates whose joint damage is not their sum, the strongest first."""
    i, j = np.triu_indices(len(damage), 1)
    size = np.abs(damage[i, j])
    order = np.argsort(-size, kind="stable")[:_MOST_PAIRS]
    return [(int(i[k]), int(j[k])) for k in order if size[k] > 1e-9]


def _product(
    n: int, others: int, k: int, i: int, j: int, *, above: bool
) -> list[tuple[Vector, float]]:
    """Rows that hold the k-th product variable to x_i·x_j, from the side that it would leave."""
    if above:  # y >= x_i + x_j - 1
        row = np.zeros(n + others)
        row[[i, j, n + k]] = 1, 1, -1
        return [(row, 1.0)]
    found = []
    for one in (i, j):  # y <= x_i, y <= x_j
        row = np.zeros(n + others)
        row[[one, n + k]] = -1, 1
        found.append((row, 0.0))
    return found
