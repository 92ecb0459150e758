"""Follow the trials of a sweep: tell each that ends, write its JSON, estimate the time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dcnify.ablate.points import level_text, short_names
from dcnify.ablate.results.quantities import ALL, objective_of
from dcnify.ablate.state.record import TRIALS, AblationRecord, write_trial
from dcnify.ablate.state.store import DONE, FAILED, INFEASIBLE, Row, Store
from dcnify.progress import Progress, silent

_ENDED = (DONE, FAILED, INFEASIBLE)
_ENOUGH = 3
"""Trials that an estimate needs."""
_LONGEST = 5.0
"""Seconds until the next look, whatever the last one took: other processes may have held it up."""


class Tally:
    """What has become of the trials of a sweep, since this was made.

    Args:
        store: where they are.
        record: the sweep.
        folder: where each gets its JSON.
        progress: progress callback.
        say: called with a line for each trial that ends.
    """

    def __init__(
        self,
        store: Store,
        record: AblationRecord,
        folder: Path,
        progress: Progress = silent,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._store, self._record, self._folder = store, record, folder
        self._progress, self._say = progress, say
        self._names = short_names(list(record.paths))
        self._wanted = set(record.hashes) or set(store.latest())
        self._next, self._first, self._first_ended = 0.0, 0.0, 0
        rows = self._rows()
        self._known = {name for name, row in rows.items() if row.state in _ENDED}
        self._before = len(self._known)
        self.failed: list[Row] = []
        """Trials that failed meanwhile."""
        write_missing(folder, rows)

    @property
    def ended(self) -> int:
        """Trials that ended meanwhile."""
        return len(self._known) - self._before

    def update(self, *, now: bool = False) -> None:
        """Tell what ended since the last call; does nothing while looking would cost too much."""
        if not now and time.monotonic() < self._next:
            return
        began = time.monotonic()
        rows = self._rows()
        fresh = [
            row for name, row in rows.items() if row.state in _ENDED and name not in self._known
        ]
        before = len(self._known)
        self._known |= {row.hash for row in fresh}
        self.failed += [row for row in fresh if row.state == FAILED]
        if fresh and not self._first_ended:
            self._first, self._first_ended = began, self.ended
        for number, row in enumerate(fresh, before + 1):
            left = self._left() if number == len(self._known) else ""
            self._say(f"[{number}/{len(self._wanted)}] {self._line(row)}{left}")
        write_missing(self._folder, {row.hash: row for row in fresh})
        self._progress("trials", len(self._known), len(self._wanted))
        took = time.monotonic() - began
        self._next = time.monotonic() + min(20 * took, _LONGEST)

    def _rows(self) -> dict[str, Row]:
        return {name: row for name, row in self._store.latest().items() if name in self._wanted}

    def _line(self, row: Row) -> str:
        changes = row.spec["changes"]
        what = ", ".join(f"{self._names[path]}={level_text(v)}" for path, v in changes.items())
        if len(self._record.seeds) > 1:
            what = f"{what}, seed {row.spec['seed']}"
        result = row.result or {}
        if row.state != DONE:
            return f"{what}: {row.state}: {result.get('error', '')}"
        values = result["values"]
        there = (key for key, value in values.items() if value is not None)
        name = objective_of(there, informative=not result.get("uninformative"))
        found = ALL[name or "seconds"]
        shown = f"{found.title} {found.quantity.with_unit(values[found.name])}"
        return f"{what}: {shown}, {values['seconds']:.1f} s"

    def _left(self) -> str:
        left = len(self._wanted) - len(self._known)
        since = self.ended - self._first_ended
        if self.ended < _ENOUGH or not since or not left:
            return ""
        # The first trials also warm up what the others find ready.
        took = (time.monotonic() - self._first) / since
        return f", about {clock(took * left)} left"


def write_missing(folder: Path, rows: dict[str, Row]) -> None:
    """Write the JSON of each trial that has ended and has none: others may have carried it out."""
    there = {path.stem for path in (folder / TRIALS).glob("*.json")}
    for name, row in rows.items():
        if row.state in _ENDED and (row.state != DONE or name[:12] not in there):
            told = {"state": row.state, "hash": name, **row.spec, **(row.result or {})}
            write_trial(folder, name[:12], told)


def counts(record: AblationRecord, rows: dict[str, Row]) -> dict[str, int]:
    """How many trials of a sweep are in each state; those that were never enqueued are missing."""
    return dict(Counter(rows[one].state if one in rows else "missing" for one in record.hashes))


def clock(seconds: float) -> str:
    """``1:05:00`` or ``5:07``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
