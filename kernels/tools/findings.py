"""Inspected cases and their findings. Plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dcnify.kernels.plan import Launch

if TYPE_CHECKING:  # imports Triton
    from dcnify.kernels.tools.machine_code import MachineCode


class Case(NamedTuple):
    """One launch to inspect."""

    kind: str
    width: int
    dtype: str
    target: str


class Finding(NamedTuple):
    """What a case became."""

    case: Case
    launch: Launch | None
    code: MachineCode | None
    warps: int
    """Resident per multiprocessor (NVIDIA, of 32 threads) or compute unit (AMD, of 64)."""
    per_row: float
    """Instructions of a warp of 32 threads (AMD: half of 64) for each row."""
    faults: tuple[str, ...]
    """What is wrong; empty if nothing is."""
    skipped: str = ""
    """Why it could not be compiled here."""


def rows_of(launch: Launch) -> int:
    """Rows of one program of a launch."""
    given = launch.constants
    return given["ROWS"] if "ROWS" in given else given["TILE_H"] * given["TILE_W"]
