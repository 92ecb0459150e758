"""Ctrl-C and a scheduler's SIGTERM end a run at the next step, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from dcnify.errors import DcnifyError


class StoppedError(DcnifyError):
    """The run was asked to stop, and says how to go on."""

    exit_code = 130


class Interrupt:
    """While this is entered, the first signal only sets `asked`; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal() returned

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
