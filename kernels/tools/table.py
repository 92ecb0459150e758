"""Findings of `dcnify.kernels.tools.inspect` as lines of a table and as plain data."""

from __future__ import annotations

import math
from typing import Any

from dcnify.kernels.plan import ITEMSIZE
from dcnify.kernels.tools.findings import Finding, rows_of

HEAD = (
    f"{'kernel':<21}{'D':>4} {'dtype':<9}{'target':<8}{'block x rows, warps, tile':<29}"
    f"{'regs':>5}{'spill':>6}{'shared':>7}{'warps':>6}{'per row':>8}  accesses"
)


def line_of(found: Finding) -> str:
    """One line of the table."""
    case = found.case
    start = f"{case.kind:<21}{case.width:>4} {case.dtype:<9}{case.target:<8}"
    if found.code is None or found.launch is None:
        return f"{start}{found.skipped}"
    given, code = found.launch.constants, found.code
    shape = f"{given['BLOCK_D']} x {rows_of(found.launch)}, {found.launch.warps}, "
    shape += f"{given['TILE_H']}x{given['TILE_W']}x{given.get('TILE_G', 1)}"
    if "WINDOW_H" in given:
        shape += f" in {given['WINDOW_H']}x{given['WINDOW_W']}"
    accesses = ", ".join(f"{count} {name}" for name, count in code.accesses.items())
    apart = case.width * ITEMSIZE[case.dtype]
    verdict = "; ".join(found.faults) or "ok"
    if apart % 16 and "WINDOW_H" not in given:
        verdict += f" (rows {apart} bytes apart, {math.gcd(apart, 16)} at once)"
    return (
        f"{start}{shape:<29}{code.registers:>5}{code.spilled:>6}{code.shared:>7}{found.warps:>6}"
        f"{found.per_row:>8.1f}  {accesses}; {verdict}"
    )


def as_data(found: Finding) -> dict[str, Any]:
    """A finding as plain data."""
    return {
        **found.case._asdict(),
        "launch": found.launch and found.launch._asdict(),
        "code": found.code and found.code._asdict(),
        "resident_warps": found.warps,
        "instructions_per_row": found.per_row,
        "faults": list(found.faults),
        "skipped": found.skipped,
    }
