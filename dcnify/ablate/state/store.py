"""The state of a sweep, in Optuna's storage: which trials wait, run, and are done."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dcnify.ablate.state.owner import is_gone, this_process
from dcnify.ablate.state.storage import HEARTBEAT, in_words, open_storage, quiet, without_password
from dcnify.errors import InputError
from dcnify.words import did_you_mean

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

PREFIX = "dcnify:"
"""Of the attributes of a study that are ours."""
_MOST_NAMES = 5
MOST_KILLS = 5
"""Workers that a trial may cost in one call before it counts as failed."""
WAITING, RUNNING, DONE, FAILED, INFEASIBLE, PREEMPTED, VOID = (
    "waiting",
    "running",
    "done",
    "failed",
    "infeasible",
    "preempted",
    "void",
)


@dataclass(frozen=True)
class Row:
    """One trial as the storage has it. A hash that was preempted or failed may have several."""

    id: int
    number: int
    hash: str
    state: str
    result: dict[str, Any] | None
    """What was measured, or ``{"error": ...}``."""
    spec: dict[str, Any]
    owner: dict[str, Any] | None


class Store:
    """The trials of one sweep in an Optuna storage; `open_store` makes one."""

    def __init__(self, storage: RDBStorage, study_id: int, name: str) -> None:
        import optuna

        self._storage, self._study_id, self.name = storage, study_id, name
        self._states = optuna.trial.TrialState
        self._finished = optuna.exceptions.UpdateFinishedTrialError
        self._study = optuna.load_study(study_name=name, storage=storage)
        self._queue: list[int] = []

    # What the sweep is

    def about(self) -> dict[str, Any]:
        """What `describe` has written; empty for a study that is not ours."""
        with in_words(self.name):
            found = self._storage.get_study_user_attrs(self._study_id)
        ours = (key for key in found if key.startswith(PREFIX))
        return {key.removeprefix(PREFIX): found[key] for key in ours}

    def describe(self, about: Mapping[str, Any]) -> None:
        """Write down what all trials share."""
        for key, value in about.items():
            self._storage.set_study_user_attr(self._study_id, PREFIX + key, value)

    # Trials

    def rows(self) -> list[Row]:
        """Every trial in the order in which they were enqueued."""
        return [self._row(one) for one in self._study.get_trials(deepcopy=False)]

    def latest(self) -> dict[str, Row]:
        """By hash, the trial that counts: the one that is done, else the last."""
        found: dict[str, Row] = {}
        for row in self.rows():
            if row.state != VOID and (row.hash not in found or found[row.hash].state != DONE):
                found[row.hash] = row
        return found

    def enqueue(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """Add trials that wait, in one transaction.

        Each spec has its ``hash``; one that waits, runs or is done already is not added again.
        """
        from optuna.storages._rdb import models
        from sqlalchemy import func, insert, select
        from sqlalchemy.orm import Session

        trial, attribute = models.TrialModel, models.TrialUserAttributeModel
        mine, states = trial.study_id == self._study_id, self._states
        with in_words(self.name), Session(self._storage.engine) as session, session.begin():
            # A trial's number is its place, so nobody else may add one meanwhile.
            models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
            alive = trial.state.in_([states.WAITING, states.RUNNING, states.COMPLETE])
            told = select(attribute.value_json).join(trial, trial.trial_id == attribute.trial_id)
            found = session.scalars(told.where(mine, alive, attribute.key == "spec"))
            there = {json.loads(text)["hash"] for text in found}
            new = [dict(one) for one in specs if one["hash"] not in there]
            if not new:
                return
            first = session.scalar(select(func.count()).select_from(trial).where(mine)) or 0
            rows = [
                {"study_id": self._study_id, "number": first + i, "state": states.WAITING}
                for i in range(len(new))
            ]
            session.execute(insert(trial), rows)
            added = select(trial.number, trial.trial_id).where(mine, trial.number >= first)
            ids = {number: trial_id for number, trial_id in session.execute(added)}
            attributes = [
                {"trial_id": ids[first + i], "key": "spec", "value_json": json.dumps(spec)}
                for i, spec in enumerate(new)
            ]
            session.execute(insert(attribute), attributes)

    def claim(self) -> Row | None:
        """Take the next trial that waits; None if there is none. No two workers get the same."""
        while (trial_id := self._next()) is not None:
            with suppress(self._finished), in_words(self.name):
                # A heartbeat first: a trial that runs without one would never be noticed.
                self._storage.record_heartbeat(trial_id)
                if self._storage.set_trial_state_values(trial_id, self._states.RUNNING):
                    self._storage.set_trial_user_attr(trial_id, "owner", this_process())
                    return self._row(self._storage.get_trial(trial_id))
        return None

    def _next(self) -> int | None:
        if not self._queue:
            waiting = self._in_state(self._states.WAITING)
            self._queue = [one.id for one in reversed(waiting)]
        return self._queue.pop() if self._queue else None

    def _in_state(self, state: Any) -> list[Row]:
        with in_words(self.name):
            found = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(state,))
        return list(map(self._row, found))

    @contextmanager
    def alive(self, row: Row) -> Iterator[None]:
        """Give signs of life of a trial's worker while this is entered."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                with suppress(Exception):  # the next one may get through
                    self._storage.record_heartbeat(row.id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def finish(self, row: Row, result: Mapping[str, Any]) -> bool:
        """Write down what was measured; False if another worker has the trial by now."""
        return self._end(row, self._states.COMPLETE, result)

    def fail(self, row: Row, error: str, *, infeasible: bool = False) -> bool:
        """Write down why a trial has no result; ``infeasible`` ones are not tried again."""
        state = self._states.PRUNED if infeasible else self._states.FAIL
        return self._end(row, state, {"error": error})

    def give_back(self, row: Row) -> None:
        """Let go of a trial that this worker does not finish."""
        self._end(row, self._states.FAIL)

    def drop(self, rows: Sequence[Row]) -> None:
        """Take trials that wait out of the queue."""
        for row in rows:
            with suppress(self._finished):
                if self._storage.set_trial_state_values(row.id, self._states.RUNNING):
                    self._end(row, self._states.FAIL, {"void": True})

    def running(self) -> list[Row]:
        """The trials that workers have."""
        return self._in_state(self._states.RUNNING)

    def take_back(self) -> list[Row]:
        """Let go of the trials whose workers were killed, and enqueue them again; return those."""
        with in_words(self.name):
            stale = set(self._storage._get_stale_trial_ids(self._study_id))
        lost = []
        for row in self.running():
            if row.id in stale or (row.owner is not None and is_gone(row.owner)):
                if row.result and "error" not in row.result:
                    self.finish(row, row.result)  # killed between the last two steps
                    continue
                kills = row.spec.get("kills", 0) + 1
                if kills < MOST_KILLS and self._end(row, self._states.FAIL):
                    lost.append(replace(row, spec={**row.spec, "kills": kills}))
                elif kills >= MOST_KILLS:
                    self.fail(row, f"its worker was killed {kills} times")
        self.enqueue([row.spec for row in lost])
        return lost

    def requeue(self) -> None:
        """Enqueue again the trials that a worker let go of."""
        self.enqueue([row.spec for row in self.latest().values() if row.state == PREEMPTED])

    def _end(
        self,
        row: Row,
        state: Any,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """Finish a trial; False if somebody else did."""
        try:
            with in_words(self.name):
                if result is not None:
                    self._storage.set_trial_user_attr(row.id, "result", dict(result))
                value = (result or {}).get("objective")
                complete = state == self._states.COMPLETE
                values = [float(value)] if complete and value is not None else None
                return self._storage.set_trial_state_values(row.id, state, values)
        except self._finished:
            return False

    def _row(self, trial: FrozenTrial) -> Row:
        states, attrs = self._states, trial.user_attrs
        result = attrs.get("result")
        words = {
            states.WAITING: WAITING,
            states.RUNNING: RUNNING,
            states.COMPLETE: DONE,
            states.PRUNED: INFEASIBLE,
            states.FAIL: PREEMPTED,
        }
        if trial.state == states.FAIL and result and ("void" in result or "error" in result):
            words[states.FAIL] = VOID if "void" in result else FAILED
        spec = attrs.get("spec") or {}
        return Row(
            id=trial._trial_id,
            number=trial.number,
            hash=spec.get("hash", ""),
            state=words[trial.state],
            result=result,
            spec=spec,
            owner=attrs.get("owner"),
        )


def open_store(url: str, name: str | None, *, create: bool = False) -> Store:
    """Open the study of that name in a storage.

    Args:
        url: as SQLAlchemy takes it: ``sqlite:///state.db``, ``postgresql://user@host/database``.
        name: the study; None for the only one that is ours.
        create: make it if it is not there.

    Raises:
        InputError: the storage cannot be reached, or has no such study.
    """
    storage = open_storage(url, create=create)
    import optuna

    shown = without_password(url)
    with in_words(shown):
        names = optuna.get_all_study_names(storage=storage)
        if name is None:
            name = _only_one(storage, names, shown)
        if name not in names:
            if not create:
                some = [*names[:_MOST_NAMES], *["..."] * (len(names) > _MOST_NAMES)]
                there = f"; there is {', '.join(some)}" if names else ""
                hint = did_you_mean(name, names, otherwise=there)
                raise InputError(f"{shown} has no ablation {name!r}{hint}")
            with quiet():
                optuna.create_study(
                    study_name=name, storage=storage, direction="maximize", load_if_exists=True
                )
        return Store(storage, storage.get_study_id_from_name(name), name)


def _only_one(storage: RDBStorage, names: Sequence[str], shown: str) -> str:
    ours = [
        name
        for name in names
        if f"{PREFIX}version" in storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    ]
    if len(ours) != 1:
        there = f"several ablations: {', '.join(ours)}; name one with --study" if ours else "none"
        raise InputError(f"{shown} has {there if ours else 'no ablation'}")
    return ours[0]
