"""Damage for fuzzers: what may stand in the place of any value, and edits of bytes."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import strategies as st

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308),
    *(math.nan, math.inf, "", "x" * 3000, "../x", "/etc/passwd", "\0", "a.b.c", "F32", "I8"),
    *([], {}, [[]], [1, 2, 3], {"a": {"b": 1}}, [0] * 2000, ["a"] * 50),
    *("python:os:getcwd", "re:(a|a)*b", {"tensor": "x"}),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within lists and dicts."""
    if isinstance(value, dict):
        inner = list(value.items())
    else:
        inner = list(enumerate(value)) if isinstance(value, list) else []
    return [place for key, one in inner for place in ((*path, key), *places(one, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """A copy of JSON-ready ``value`` with one to three values replaced, renamed or gone."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(value)))
        owner = value
        for key in way:
            owner = owner[key]
        kind = draw(st.sampled_from(("replace", "remove", "rename", "double")))
        if kind == "replace":
            owner[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "remove":
            del owner[last]
        elif isinstance(owner, dict):
            owner[draw(st.sampled_from(("", "x", "__class__", "weight")))] = owner[last]
        else:
            owner.append(owner[last])
        if not places(value):
            break
    return value


@st.composite
def edited(draw: st.DrawFn, data: bytes, start: int = 0) -> bytes:
    """``data`` with a few bytes after ``start`` changed, cut out, or doubled."""
    for _ in range(draw(st.integers(1, 4))):
        if len(data) <= start:
            break
        at = draw(st.integers(start, len(data) - 1))
        size = draw(st.integers(1, 12))
        kind = draw(st.sampled_from(("bits", "cut", "double", "ones", "end")))
        if kind == "bits":
            new = bytes([data[at] ^ (1 << draw(st.integers(0, 7)))])
            data = data[:at] + new + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + size :]
        elif kind == "double":
            data = data[:at] + data[at : at + size] + data[at:]
        elif kind == "ones":
            data = data[:at] + b"\xff" * size + data[at + size :]
        else:
            data = data[:at]
    return data
