"""Exchange two names in one step, and let signals wait while a folder is between two states."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_HERE = -100  # AT_FDCWD
_EXCHANGE = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exchange(one: Path, other: Path) -> bool:
    """Let two existing paths of one file system change places; false where the system cannot."""
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            return libc.renamex_np(first, second, _EXCHANGE) == 0
        return libc.renameat2(_HERE, first, _HERE, second, _EXCHANGE) == 0
    except (AttributeError, OSError, TypeError):
        return False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])
