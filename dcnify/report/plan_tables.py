"""A plan as tables: what each site becomes, and why every other candidate stays."""

from __future__ import annotations

from collections.abc import Iterator

from dcnify.report.quantity import COUNT, change
from dcnify.report.view import Column, Part, Table, Text
from dcnify.roles import ROLES
from dcnify.surgery.plan import Plan
from dcnify.surgery.table import module_label


def plan_tables(plan: Plan) -> Iterator[Part]:
    """What each site becomes, and why every other candidate stays."""
    if plan.swaps:
        columns: tuple[Column, ...] = (
            Column("site", code=True),
            Column("was"),
            Column("stage", COUNT),
            Column("input"),
            Column("becomes"),
            Column("parameters"),
            Column("FLOPs"),
            Column("swap", code=True),
        )
        rows = (
            (
                swap.site.path,
                ROLES[swap.site.role].label(swap.site),
                swap.site.stage,
                "x".join(map(str, swap.site.input_shape)),
                module_label(swap),
                change(swap.site.parameters, swap.parameters),
                change(swap.site.flops, swap.flops),
                swap.swap,
            )
            for swap in plan.swaps
        )
        yield Table(columns, tuple(rows), "Swapped")
    for note in sorted({note for swap in plan.swaps for note in swap.notes} | set(plan.notes)):
        yield Text(note, "note")
    if plan.skipped:
        columns = (Column("site", code=True), Column("role"), Column("reason"))
        kept = ((one.path or "(model)", one.role, one.reason) for one in plan.skipped)
        yield Table(columns, tuple(kept), "Not swapped")
