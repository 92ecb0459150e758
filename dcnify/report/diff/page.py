"""Differences as a page of the view model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dcnify.report.artifact_page import OUTPUT
from dcnify.report.diff.difference import Change, Difference, WeightChange
from dcnify.report.quantity import COUNT, DECIBEL, PERCENT, RELATIVE_ERROR, SHORT_COUNT, Quantity
from dcnify.report.view import Column, Page, Part, Section, Table, Text

_QUANTITIES: dict[str, Quantity] = {
    **{words: quantity for _, words, quantity in OUTPUT},
    "parameters": SHORT_COUNT,
    "FLOPs": SHORT_COUNT,
    "SQNR of the layer": DECIBEL,
    **{f"accuracy, {key}": PERCENT for key in ("original", "converted", "finetuned")},
}
_MEASURED = ("fidelity", "training", "cost")
_NAMED = 2
"""Layers that are named where a change is true of more."""
_SHOWN = 4
"""Keys that are shown of what one side alone has."""


def difference_page(found: Difference) -> Page:
    """Say what differs, in a table for each part."""
    sections = [
        Section(part[0].upper() + part[1:], (_table(ones, part),))
        for part, ones in found.changes.items()
        if ones
    ]
    if found.weights:
        sections.append(Section("Weights", tuple(_weights(found.weights))))
    lead = f"A is {found.a}, B is {found.b}."
    if found.same:
        return Page(f"The same {found.kind}", f"{lead} Nothing differs.", ())
    return Page(f"Two {found.kind}s", lead, tuple(sections))


def _table(found: Sequence[Change], part: str) -> Table:
    about_layers = any(one.layers for one in found)
    layers = (Column("layers", code=True),) if about_layers else ()
    columns = (Column("what"), Column("A"), Column("B"), *layers)
    rows = (
        (
            one.what,
            _text(one, one.a, part),
            _text(one, one.b, part),
            *((_layers(one.layers),) if about_layers else ()),
        )
        for one in found
    )
    return Table(columns, tuple(rows))


def _text(change: Change, value: Any, part: str) -> str:
    if value is not None and part in _MEASURED and change.what in _QUANTITIES:
        return _QUANTITIES[change.what].with_unit(value)
    return _plain(value)


def _plain(value: Any) -> str:
    """Nested data in a line: a list of entries by their names, the beginning of anything long."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        names = (one.get("name", one) if isinstance(one, Mapping) else one for one in value)
        return f"[{', '.join(map(_plain, names))}]"
    if isinstance(value, Mapping):
        shown = [f"{key}: {_plain(one)}" for key, one in list(value.items())[:_SHOWN]]
        return ", ".join(shown + ["..."] * (len(value) > _SHOWN)) or "{}"
    return str(value)


def _layers(paths: Sequence[str]) -> str:
    if len(paths) <= _NAMED:
        return ", ".join(paths)
    return f"{', '.join(paths[:_NAMED])} and {len(paths) - _NAMED} more"


def _weights(found: Sequence[WeightChange]) -> Iterator[Part]:
    differ = [one for one in found if not one.same]
    equal = [one.layer for one in found if one.same]
    if differ:
        columns = (
            Column("layer", code=True),
            Column("tensors", COUNT),
            Column("differ", COUNT),
            Column("apart", RELATIVE_ERROR),
            Column("without a match", COUNT),
        )
        rows = (
            (
                one.layer,
                one.tensors,
                one.changed,
                one.distance if one.tensors else None,
                one.unmatched,
            )
            for one in differ
        )
        yield Table(columns, tuple(rows))
        yield Text(
            "Apart: norm of the difference of tensors of one name and shape, over that of A's. "
            "Without a match: tensors that one side alone has, or of another shape."
        )
    if equal:
        yield Text(f"Equal: {_layers(equal)}.")
