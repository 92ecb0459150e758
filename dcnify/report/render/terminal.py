"""The view model on a terminal: text and rich's tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dcnify.report.view import (
    Code,
    Column,
    Facts,
    Figure,
    Network,
    Page,
    Part,
    Section,
    Table,
    Text,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

PLACES = {"swapped": "■", "kept": "□", "reverted": "▨"}
"""How a place of the network is drawn in text."""


def terminal(part: Page | Part | Any) -> list[Any]:
    """Render a page or a part of one: lines of text, and tables for rich to print.

    Anything else, such as text, is returned as it is.
    """
    return list(_rendered(part)) if isinstance(part, Page | Part) else [part]


def _rendered(part: Page | Section | Part) -> Iterator[str | RichTable]:
    match part:
        case Page():
            yield from (part.title, part.lead)
            yield from _all(part.sections)
        case Section():
            yield from ("", part.title)
            yield from _all(part.parts)
        case Text():
            yield part.shown
        case Table():
            yield rich_table(part)
        case Facts():
            yield from (f"{fact.name}: {fact.text}" for fact in part.facts)
        case Code():
            yield part.text.rstrip("\n")
        case Figure():
            yield part.words
        case Network():
            yield from network_lines(part)


def _all(parts: Iterable[Section | Part]) -> Iterator[str | RichTable]:
    for part in parts:
        yield from _rendered(part)


def network_lines(network: Network) -> Iterator[str]:
    """A line for each stage, and what the signs mean."""
    wide = max((len(stage.name) for stage in network.stages), default=0)
    for stage in network.stages:
        drawn = "".join(PLACES[place.state] for place in stage.places)
        yield f"{stage.name:{wide}}  {drawn}  {stage.detail}"
    yield ", ".join(f"{PLACES[state]} {state}" for state in network.states)


def rich_table(table: Table) -> RichTable:
    """Make rich's table: numbers to the right, cells not read as markup, folded where narrow."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    made = RichTable(
        title=RichText(table.caption) if table.caption else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in table.columns:
        made.add_column(
            column.head, justify="right" if column.quantity else "left", overflow="fold"
        )
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        made.add_row(*(RichText(Column.text(column, cell)) for column, cell in cells))
    return made
