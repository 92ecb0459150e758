"""The network of a plan: its stages, and which of their candidates are swapped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dcnify.report.quantity import Quantity
from dcnify.report.view import Network, Place, Stage, State
from dcnify.surgery.plan import Plan
from dcnify.surgery.table import module_label

_NUMBER = Quantity("dB", 1, infinite="exact")
_ELSEWHERE = 10**9
"""The stage of candidates that are known by name only; it comes last."""


def network_of(plan: Plan, sqnr_db: Mapping[str, float]) -> Network:
    """Draw every candidate of a plan at its stage, in the order of the paths.

    Args:
        plan: what was swapped, and what was not.
        sqnr_db: the fidelity of the new layers that it is known of, by path.
    """
    grids = {swap.site.stage: swap.site.grid for swap in reversed(plan.swaps)}
    stages = {swap.site.path: swap.site.stage for swap in plan.swaps}
    found: list[tuple[int, str, State, str]] = [
        (swap.site.stage, swap.site.path, "swapped", f"becomes {module_label(swap)}")
        for swap in plan.swaps
    ]
    for one in plan.skipped:
        stage = _nearest(one.path, stages) if one.stage is None else one.stage
        state: State = "reverted" if one.reason.startswith("reverted:") else "kept"
        found.append((stage, one.path or "(model)", state, one.reason))
    drawn = []
    ends = _shared([path.split(".")[::-1] for _, path, _, _ in found])
    for stage in sorted({one[0] for one in found}):
        here = sorted((one for one in found if one[0] == stage), key=lambda one: _natural(one[1]))
        begins = _shared([path.split(".") for _, path, _, _ in here])
        places = tuple(
            Place(
                _name(path, begins, ends),
                state,
                f"{path}: {detail}",
                _NUMBER.with_unit(sqnr_db.get(path)),
            )
            for _, path, state, detail in here
        )
        swapped = sum(place.state == "swapped" for place in places)
        size = f"{'x'.join(map(str, grids[stage]))}, " if stage in grids else ""
        name = "elsewhere" if stage == _ELSEWHERE else f"stage {stage}"
        drawn.append(Stage(name, f"{size}{swapped} of {len(places)} swapped", places))
    return Network(tuple(drawn))


def _nearest(path: str, stages: dict[str, int]) -> int:
    """The stage of the site whose path shares the longest beginning, if any shares one."""
    parts = path.split(".")
    shared = {other: len(_common(parts, other.split("."))) for other in stages}
    best = max(shared, key=shared.__getitem__, default="")
    return stages[best] if best and shared[best] > 1 else _ELSEWHERE


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort ``blocks.10`` after ``blocks.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[._]", path)]


def _shared(paths: Sequence[list[str]]) -> int:
    """How many leading parts all paths share."""
    together = paths[0] if paths else []
    for path in paths[1:]:
        together = _common(together, path)
    return len(together)


def _common(one: list[str], other: list[str]) -> list[str]:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return one[:same]


def _name(path: str, begins: int, ends: int) -> str:
    """The parts of a path that tell it from the others."""
    parts = path.split(".")
    last = max(1, len(parts) - ends)
    return ".".join(parts[min(begins, last - 1) : last])
