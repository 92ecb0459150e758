"""What a sweep has come to so far, in one object."""

from __future__ import annotations

from dcnify.ablate.points import level_text, short_names
from dcnify.ablate.results.effects import Effects, effects
from dcnify.ablate.results.points import (
    PointResult,
    best,
    front,
    measured,
    objective,
    results,
    uninformative,
)
from dcnify.ablate.results.quantities import ALL
from dcnify.ablate.state.record import AblationRecord
from dcnify.ablate.state.store import DONE, Row


class Results:
    """What a sweep has come to so far."""

    def __init__(self, record: AblationRecord, rows: dict[str, Row]) -> None:
        self.record = record
        self.points = results(record, rows)
        self.names = short_names(record.paths)
        self.measured = measured(self.points)
        self.objective = objective(self.points)
        self.uninformative = uninformative(self.points)
        self.best = best(self.points)
        self.costs = [name for name in self.measured if ALL[name].is_cost and self._varies(name)]

    def _varies(self, name: str) -> bool:
        return len({one.means.get(name) for one in self.points}) > 1

    @property
    def effects(self) -> Effects | None:
        """What the factors do to the objective."""
        if self.objective is None:
            return None
        return effects(self.points, list(self.record.factors), self.objective)

    def front(self, cost: str) -> list[PointResult]:
        """The points that no other beats in the objective and this cost."""
        return front(self.points, self.objective, cost) if self.objective else []

    def label(self, point: PointResult) -> str:
        """A point in words: the values that differ from the base, or ``base``."""
        base = self.points[self.record.base].changes
        if point.index == self.record.base:
            return "base"
        own = {path: value for path, value in point.changes.items() if base.get(path) != value}
        return ", ".join(f"{self.names[path]}={level_text(v)}" for path, v in own.items())

    @property
    def missing(self) -> list[str]:
        """What is not there yet, a line for each kind; empty once all trials are done."""
        trials = {one.hash: one for point in self.points for one in point.trials}
        states: dict[str, int] = {}
        for one in trials.values():
            if one.state != DONE:
                states[one.state] = states.get(one.state, 0) + 1
        done = len(trials) - sum(states.values())
        if not states:
            return []
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        return [f"{done} of {len(trials)} trials are done: {told}"]
