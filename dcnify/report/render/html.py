"""The view model as one page of HTML that loads nothing: styles, script and pictures are inside."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from dcnify.errors import InputError
from dcnify.report.chart import Chart
from dcnify.report.render.generator import GENERATOR
from dcnify.report.view import Cell, Column, Mark, Page, Part, Spread, Table

if TYPE_CHECKING:
    from jinja2 import Environment

AT_ONCE = 1000
"""Rows of a table that are in the page from the start; a script adds the others as one scrolls."""
_PINNED = 14
"""Letters of a first column that stays in sight."""


class HtmlCell(NamedTuple):
    """A cell as the template and the script need it; a list in JSON."""

    text: str
    value: float | None
    """What a column of numbers is sorted by."""
    tone: str


class HtmlRows(NamedTuple):
    """The rows of a table."""

    first: list[list[HtmlCell]]
    later: list[list[HtmlCell]]
    is_pinned: bool
    """Whether the first column stays while others scroll: it is narrow enough for a phone."""


def html(page: Page) -> str:
    """Render a page.

    Raises:
        InputError: jinja2 or matplotlib is not installed.
    """
    from dcnify.report.render.drawing import svg
    from dcnify.report.render.numbers import numbers

    environment, drawn = _environment(), 0

    def draw(chart: Chart) -> str:
        nonlocal drawn
        drawn += 1
        return svg(chart, f"figure{drawn}")

    def kind(part: Part) -> str:
        return type(part).__name__

    tools = {"kind": kind, "draw": draw, "numbers": numbers, "rows": _rows}
    environment.globals.update(tools)
    return environment.get_template("page.html.jinja").render(page=page, generator=GENERATOR)


def _rows(table: Table) -> HtmlRows:
    rows = [
        [_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
    widest = max((len(row[0].text) for row in rows), default=0)
    return HtmlRows(rows[:AT_ONCE], rows[AT_ONCE:], widest <= _PINNED)


def _cell(column: Column, cell: Cell) -> HtmlCell:
    value = cell.value if isinstance(cell, Spread) else cell
    number = float(value) if isinstance(value, int | float) else None
    return HtmlCell(column.text(cell), number, cell.tone if isinstance(cell, Mark) else "")


def _environment() -> Environment:
    try:
        from jinja2 import DictLoader, Environment, StrictUndefined
    except ImportError:
        raise InputError("a page of HTML needs jinja2; pip install 'dcnify[report]'") from None
    texts = {
        one.name: one.read_text("utf-8")
        for one in (files("dcnify.report.render") / "page").iterdir()
    }
    return Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
