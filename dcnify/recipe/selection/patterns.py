"""Patterns on module paths: globs by path component, or ``re:`` for a regular expression.

A glob covers the modules it matches and everything beneath them, the way a folder in a
``.gitignore`` does: ``stages.2`` and ``stages.2.*`` both cover ``stages.2.blocks.0.conv_dw``.
A regular expression must match a whole path and covers that module alone.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from dcnify.errors import InputError
from dcnify.words import first_line

if TYPE_CHECKING:
    import regex

REGEX = "re:"
_SECONDS = 1.0
"""A match that takes longer is of a pattern that may take for ever."""


def problem(pattern: str) -> str | None:
    """What is wrong with a pattern, in words, or None."""
    if pattern.startswith(REGEX):
        return _regex_problem(pattern)
    if not pattern.strip():
        return "a pattern cannot be empty"
    if pattern != pattern.strip():
        return f"pattern {pattern!r} has spaces around it"
    if "/" in pattern:
        return f"pattern {pattern!r}: module paths are written with dots, as 'stages.0.blocks'"
    if "{" in pattern:
        return f"pattern {pattern!r}: braces are not supported; write one pattern per alternative"
    if "" in pattern.split("."):
        return f"pattern {pattern!r} has an empty component: two dots, or one at an end"
    for part in pattern.split("."):
        if "**" in part and part != "**":
            return f"pattern {pattern!r}: '**' must be a whole component, as in 'stages.**.conv_dw'"
        if "[" in re.sub(r"\[!?[^]]+]", "", part):
            return f"pattern {pattern!r} opens a '[' that it does not close"
    return None


def covers(pattern: str, path: str) -> bool:
    """Whether a valid ``pattern`` covers the module at ``path``."""
    if pattern.startswith(REGEX):
        try:
            return _bounded(pattern).fullmatch(path, timeout=_SECONDS) is not None
        except TimeoutError:
            raise InputError(
                f"pattern {pattern!r} takes too long on {path}: write it without a repeat of a "
                "repeat"
            ) from None
    parts = pattern.split(".")
    reached = _past_wildcards({0}, parts)
    for component in path.split("."):
        if len(parts) in reached:
            return True
        reached = _past_wildcards(
            {
                i if parts[i] == "**" else i + 1
                for i in reached
                if parts[i] == "**" or fnmatchcase(component, parts[i])
            },
            parts,
        )
    return len(parts) in reached


def first_cover(patterns: Iterable[str], paths: Iterable[str]) -> str | None:
    """The first pattern that covers any of ``paths``: the names one module goes by."""
    paths = tuple(paths)
    return next((p for p in patterns if any(covers(p, path) for path in paths)), None)


def _past_wildcards(reached: set[int], parts: list[str]) -> set[int]:
    """``**`` may stand for nothing, so reaching it also reaches what follows."""
    for i in sorted(reached):
        while i < len(parts) and parts[i] == "**":
            i += 1
            reached.add(i)
    return reached


@functools.lru_cache(maxsize=256)
def _regex(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern.removeprefix(REGEX))


@functools.lru_cache(maxsize=256)
def _bounded(pattern: str) -> regex.Pattern[str]:
    """The same for the library `regex`, whose matches can be timed out."""
    import regex

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return regex.compile(pattern.removeprefix(REGEX))


def _regex_problem(pattern: str) -> str | None:
    try:
        _regex(pattern)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        return f"{pattern!r} is not a regular expression: {error.msg}{at}"
    except (RecursionError, OverflowError):
        return "the regular expression is too large"
    try:
        _bounded(pattern)
    except Exception as error:  # what `re` takes and `regex` does not
        return f"{pattern!r} is not a regular expression: {first_line(error)}"
    return None
