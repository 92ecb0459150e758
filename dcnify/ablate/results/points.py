"""What came out at each point: mean and spread over seeds, and differences from the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcnify.ablate.results.quantities import ALL, objective_of
from dcnify.ablate.state.record import AblationRecord
from dcnify.ablate.state.store import DONE, Row

CONFIDENCE = 0.95
MISSING = "missing"


@dataclass(frozen=True)
class Difference:
    """A point against the base, seed by seed: the mean, and its confidence interval."""

    mean: float
    low: float | None
    """None with fewer than two seeds."""
    high: float | None
    seeds: int


@dataclass(frozen=True)
class TrialResult:
    """One point with one seed."""

    point: int
    seed: int
    hash: str
    state: str
    values: dict[str, float]
    error: str = ""
    uninformative: str = ""
    """Why the output says little about the new layers, if it does."""


@dataclass(frozen=True)
class PointResult:
    """One point over its seeds."""

    index: int
    changes: dict[str, Any]
    trials: tuple[TrialResult, ...]
    means: dict[str, float]
    """Over the seeds that are done, by quantity."""
    spreads: dict[str, float | None]
    """Standard deviation over those seeds; None of a single one."""
    differences: dict[str, Difference]
    """From the base, by quantity, over the seeds that both have."""

    @property
    def done(self) -> int:
        """Seeds that are done."""
        return sum(one.state == DONE for one in self.trials)


def results(record: AblationRecord, rows: Mapping[str, Row]) -> list[PointResult]:
    """What the storage has of each point of a sweep, in the sweep's order."""
    trials = [
        [
            _trial(i, seed, name, rows.get(name))
            for seed, name in zip(record.seeds, names, strict=True)
        ]
        for i, names in enumerate(point["trials"] for point in record.points)
    ]
    base = trials[record.base]
    return [
        PointResult(
            index=i,
            changes=record.points[i]["values"],
            trials=tuple(some),
            means={name: mean(found) for name, found in _by_quantity(some).items()},
            spreads={name: spread(found) for name, found in _by_quantity(some).items()},
            differences={} if i == record.base else _differences(some, base),
        )
        for i, some in enumerate(trials)
    ]


def measured(points: Sequence[PointResult]) -> list[str]:
    """The quantities that some point has, in the order of tables."""
    return [name for name in ALL if any(name in one.means for one in points)]


def objective(points: Sequence[PointResult]) -> str | None:
    """The quantity that decides which point is best."""
    return objective_of(measured(points), informative=not uninformative(points))


def uninformative(points: Sequence[PointResult]) -> str:
    """Why the output of some trial says little about the new layers; empty if none's does."""
    reasons = (one.uninformative for point in points for one in point.trials)
    return next(filter(None, reasons), "")


def best(points: Sequence[PointResult]) -> PointResult | None:
    """The point whose objective is best, of those that have it."""
    name = objective(points)
    ranked = [one for one in points if name in one.means]
    if name is None or not ranked:
        return None
    sign = 1 if ALL[name].higher_is_better else -1
    return max(ranked, key=lambda one: sign * one.means[name])


def front(points: Sequence[PointResult], gain: str, cost: str) -> list[PointResult]:
    """The points that no other beats in both quantities, cheapest first.

    Of points that are equal in both, the first counts.
    """
    signs = {name: 1 if ALL[name].higher_is_better else -1 for name in (gain, cost)}
    having = [one for one in points if gain in one.means and cost in one.means]
    ranked = sorted(
        having, key=lambda one: (-signs[cost] * one.means[cost], -signs[gain] * one.means[gain])
    )
    kept: list[PointResult] = []
    for one in ranked:
        if not kept or signs[gain] * one.means[gain] > signs[gain] * kept[-1].means[gain]:
            kept.append(one)
    return kept


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation; None of a single value."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((one - middle) ** 2 for one in values) / (len(values) - 1))


def _trial(point: int, seed: int, name: str, row: Row | None) -> TrialResult:
    if row is None:
        return TrialResult(point, seed, name, MISSING, {})
    result = row.result or {}
    values = {key: one for key, one in result.get("values", {}).items() if one is not None}
    return TrialResult(
        point,
        seed,
        name,
        row.state,
        values if row.state == DONE else {},
        result.get("error", ""),
        result.get("uninformative") or "",
    )


def _by_quantity(trials: Sequence[TrialResult]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in trials:
        for name, value in one.values.items():
            found.setdefault(name, []).append(value)
    return found


def _differences(
    trials: Sequence[TrialResult], base: Sequence[TrialResult]
) -> dict[str, Difference]:
    pairs: dict[str, list[float]] = {}
    for one, other in zip(trials, base, strict=True):
        for name in one.values.keys() & other.values.keys():
            pairs.setdefault(name, []).append(one.values[name] - other.values[name])
    return {name: _difference(values) for name, values in pairs.items()}


def _difference(values: Sequence[float]) -> Difference:
    middle, around = mean(values), spread(values)
    if around is None:
        return Difference(middle, None, None, len(values))
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * around / math.sqrt(len(values))
    return Difference(middle, middle - half, middle + half, len(values))
