"""How the command line prints: tables, plain data for JSON, and errors.

Results go to stdout: a table, or with ``--json`` a single JSON document. Remarks, progress and
errors go to stderr. When a command fails, stdout stays empty and stderr has one line, also with
``--json`` (``recipe validate --json`` and ``verify`` print a result as well). Colours follow
NO_COLOR; a pipe gets plain text at full width.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_UNWRAPPED = 10_000
"""Console width outside a terminal, where no row is folded or cut."""


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> RichTable:
    """Make a table of text; a column whose name begins with ``>`` is aligned to the right."""
    from dcnify.report.quantity import Quantity
    from dcnify.report.render.terminal import rich_table
    from dcnify.report.view import Column, Table

    right = Quantity()
    heads = (Column(one.removeprefix(">"), right if one[:1] == ">" else None) for one in columns)
    texts = (tuple("" if cell is None else str(cell) for cell in row) for row in rows)
    return rich_table(Table(tuple(heads), tuple(texts), title))


def complain(text: str) -> None:
    """Print an error as one line on stderr."""
    print(f"error: {' '.join(text.splitlines())}", file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Make a rich console without markup, on stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNWRAPPED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def as_json(data: Any) -> str:
    """Write data, dataclasses or pydantic models as JSON; NaN and infinities become null."""
    from pydantic_core import to_json

    plain = to_json(data, by_alias=True, inf_nan_mode="null", fallback=str)
    return json.dumps(json.loads(plain), indent=2)
