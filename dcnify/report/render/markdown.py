"""The view model as Markdown, as GitHub and GitLab read it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dcnify.report.render.generator import GENERATOR
from dcnify.report.render.terminal import network_lines
from dcnify.report.view import (
    Code,
    Facts,
    Figure,
    Network,
    Page,
    Part,
    Section,
    Table,
    Text,
)

_SPECIAL = re.compile(r"[\\`*\[\]<>|#~]|(?<!\w)_|_(?!\w)")


def markdown(page: Page) -> str:
    """Render a page. A figure is its file beside the page if it has one, else a sentence."""
    lines = [f"# {_literal(page.title)}", "", _literal(page.lead), ""]
    for section in page.sections:
        lines += [f"## {_literal(section.title)}", "", *_section(section)]
    return "\n".join([*lines, f"<!-- {GENERATOR} -->"]) + "\n"


def _section(section: Section) -> Iterator[str]:
    for part in section.parts:
        yield from (*_part(part), "")


def _part(part: Part) -> Iterator[str]:
    match part:
        case Text():
            yield _literal(part.shown)
        case Table():
            yield from _table(part)
        case Facts():
            for fact in part.facts:
                value = _code(fact.text) if fact.code else _literal(fact.text)
                yield f"- {_literal(fact.name)}: {value}"
        case Code():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", part.text)), default=0))
            yield from (f"{fence}{part.language}", part.text.rstrip("\n"), fence)
        case Figure() if part.file:
            target = part.file.replace(" ", "%20")
            yield from (f"![{_literal(part.alt)}]({target})", "", _literal(part.caption))
        case Figure():
            yield _literal(part.words)
        case Network():
            yield from ("```text", *network_lines(part), "```")


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield from (f"**{_literal(table.caption)}**", "")
    rules = ["---:" if column.quantity else "---" for column in table.columns]
    heads = [_literal(column.head) for column in table.columns]
    yield from (_row(heads), f"|{'|'.join(rules)}|")
    for row in table.rows:
        yield _row(
            [
                _code(column.text(cell)) if column.code and cell else _literal(column.text(cell))
                for column, cell in zip(table.columns, row, strict=True)
            ]
        )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """Text in backticks, unless it holds one; in a table a bar ends the cell even there."""
    return _literal(text) if "`" in text or "|" in text else f"`{' '.join(text.split())}`"


def _literal(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(lambda found: "\\" + found.group(), " ".join(text.split()))
