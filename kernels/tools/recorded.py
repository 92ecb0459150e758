"""The record of what every shipped launch compiled to, and whether it is still of these kernels.

To compile them all takes a quarter of an hour, too long to do at every change. So a row of the
record names the kernel's source and its launch by their hash: who changes either has to compile
those launches again, and the tests say so.
"""

from __future__ import annotations

import ast
import csv
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dcnify.kernels.plan import Launch

from dcnify.files import write_file

COLUMNS = (
    "kind", "width", "dtype", "target", "triton", "source",
    "registers", "spilled", "shared", "instructions", "moves", "accesses",
)  # fmt: skip


class Entry(NamedTuple):
    """One row: a case, what was compiled, and what became of it."""

    case: tuple[str, int, str, str]
    triton: str
    source: str
    code: tuple[int, int, int, int, int, dict[str, int]]


def source_of(kind: str, launch: Launch) -> str:
    """Names kernel and launch: equal as long as the same would be compiled."""
    name = "backward_value" if kind.startswith("backward value") else kind.split()[0]
    constants = sorted((key, str(value)) for key, value in launch.constants.items())
    told = repr((_statements(name), _statements("points"), constants, launch.warps))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


@cache
def _statements(module: str) -> str:
    """The code of a kernel file, without comments, docstrings and line numbers."""
    tree = ast.parse((Path(__file__).parents[1] / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [one for one in body if not _is_docstring(one)]
    return ast.dump(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def read_record(file: Path) -> dict[tuple[str, int, str, str], Entry]:
    """The rows by case; none where there is no such file.

    Raises:
        ValueError: it is another file.
    """
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        try:
            found = [_entry(row) for row in csv.DictReader(lines)]
        except (KeyError, ValueError, AttributeError, TypeError, csv.Error):
            raise ValueError(f"{file} is no record of compiled kernels") from None
    return {one.case: one for one in found}


def _entry(row: dict[str, str]) -> Entry:
    counts = (one.rsplit(" ", 1) for one in row["accesses"].split("; ") if one)
    registers, spilled, shared, instructions, moves = (int(row[name]) for name in COLUMNS[6:11])
    accesses = {name: int(count) for name, count in counts}
    code = registers, spilled, shared, instructions, moves, accesses
    case = (row["kind"], int(row["width"]), row["dtype"], row["target"])
    return Entry(case, row["triton"], row["source"], code)


def write_record(file: Path, entries: Iterable[Entry]) -> None:
    """Write the rows, in the order given."""
    lines: list[Sequence[object]] = [COLUMNS]
    for one in entries:
        accesses = "; ".join(f"{name} {count}" for name, count in one.code[-1].items())
        lines.append((*one.case, one.triton, one.source, *one.code[:-1], accesses))

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(lines)

    write_file(file, write, overwrite=True)
