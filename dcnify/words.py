"""Words that errors share: one line of an exception, and what a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, at most 200 characters; its type where it has none."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def shortened(value: object, longest: int = 60) -> str:
    """The value as it is written, cut to ``longest`` characters."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def closest(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names of ``known`` nearest in spelling to ``name``, best first, whatever their case.

    Args:
        name: as a person wrote it.
        known: what is valid.
        count: how many to return at most.
        cutoff: least similarity, from 0 (anything) to 1 (the same), as in `difflib`.
    """
    by_lower: dict[str, str] = {}
    for one in known:
        by_lower.setdefault(one.lower(), one)
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=cutoff)
    return [by_lower[one] for one in near]


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    count: int = 1,
    cutoff: float = 0.6,
    otherwise: str = "",
) -> str:
    """``", did you mean 'late'?"`` to end an error with, or ``otherwise`` if nothing is close."""
    near = closest(name, known, count=count, cutoff=cutoff)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else otherwise
