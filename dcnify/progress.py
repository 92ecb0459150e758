"""Progress callbacks: one signature for everything that takes long."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a description of the phase, steps done and steps in all."""


def silent(phase: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""
