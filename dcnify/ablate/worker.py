"""Work off trials: claim one, measure it, write it down; until none is left anywhere."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

from dcnify._version import __version__
from dcnify.ablate.measure import Watch, measure
from dcnify.ablate.state.record import write_trial
from dcnify.ablate.state.store import DONE, WAITING, Row, Store
from dcnify.ablate.trial import Setting, TrialSpec
from dcnify.ablate.workplace import Workplace, open_workplace
from dcnify.errors import CheckError, DcnifyError, InputError
from dcnify.finetune import StoppedError
from dcnify.progress import Progress, silent
from dcnify.words import first_line

_POLL, _LOOK = 2.0, 30.0
"""Seconds between two looks for the trials of killed workers: with nothing to do, and at work."""

Ended = Callable[[], None]


class Worker:
    """One process that takes trials.

    Args:
        store: where they are.
        folder: of the ablation, or another for what is shared between trials.
        place: the opened model, if the caller has opened it already.
        ended: called after each trial.
        watch: progress callback of the fine-tuning.
        progress: progress callback of everything else.
        fail_fast: raise at the first trial that fails.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        place: Workplace | None = None,
        *,
        ended: Ended = lambda: None,
        watch: Watch | None = None,
        progress: Progress = silent,
        fail_fast: bool = False,
    ) -> None:
        self._store, self._folder = store, folder
        self._places = {place.setting.sha256: place} if place else {}
        self._ended, self._watch, self._progress = ended, watch, progress
        self._fail_fast = fail_fast
        self._looked = 0.0

    def work(self) -> None:
        """Work off trials until none waits and no other worker has one.

        Raises:
            DcnifyError: the storage cannot be used, the disk is full, or, with ``fail_fast``, a
                trial failed.
        """
        check_version(self._store)
        while True:
            if time.monotonic() - self._looked > _LOOK:
                self._look()
            row = self._store.claim()
            if row is not None:
                self._carry_out(row)
            elif self._store.running():
                time.sleep(_POLL)
                self._look()
            else:
                self._store.requeue()
                if not any(one.state == WAITING for one in self._store.latest().values()):
                    return

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._store.take_back()

    def _carry_out(self, row: Row) -> None:
        error = ""
        try:
            with self._store.alive(row):
                spec = TrialSpec.from_dict(row.spec)
                result = measure(spec, self._place(spec.setting), self._watch)
            if self._store.finish(row, result) and self._folder.is_dir():
                write_trial(self._folder, spec.name, {"state": DONE, **result})
        except (KeyboardInterrupt, StoppedError) as stopped:
            self._store.give_back(row)
            raise StoppedError("interrupted; the same command goes on from here") from stopped
        except CheckError as found:
            self._store.fail(row, first_line(found), infeasible=True)
        except Exception as found:
            if _is_disk_full(found):
                self._store.give_back(row)
                raise
            error = first_line(found)
            self._store.fail(row, error)
        self._ended()
        if error and self._fail_fast:
            raise DcnifyError(f"a trial failed: {error}")

    def _place(self, setting: str) -> Workplace:
        if setting not in self._places:
            data = self._store.about().get(f"setting:{setting}")
            if data is None:
                raise DcnifyError("the storage does not say what the trial is about")
            found = Setting.from_dict(data)
            self._places = {setting: open_workplace(found, self._folder, self._progress)}
        return self._places[setting]


def check_version(store: Store) -> None:
    """Refuse a study that another version of dcnify has begun.

    Raises:
        InputError: it has.
    """
    version = store.about().get("version")
    if version != __version__:
        made = f"was begun by dcnify {version}" if version else "is not an ablation of dcnify"
        raise InputError(f"{store.name} {made}, and this is {__version__}")


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False
