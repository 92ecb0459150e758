"""Ctrl-C and a scheduler's SIGTERM end a run after the current step, with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dcnify.errors import DcnifyError


class StoppedError(DcnifyError):
    """The run was interrupted; the message says how to resume it."""

    exit_code = 130


class Interrupt:
    """Whether the run was asked to stop."""

    asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals: the first one sets `asked`, a second one stops at once."""
        before = {}
        if threading.current_thread() is threading.main_thread():  # which alone can
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
