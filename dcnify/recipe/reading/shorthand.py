"""Field types that accept a short form in YAML and hold one form in Python.

A number stands for a pair, one item for a list of one, a word for a mapping with that method.
Each type carries the JSON Schema of every form that it accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from dcnify.recipe.selection import patterns


def refuse(words: str, *, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """An error in our own words; ``at`` points further down than the model that raises it."""
    return PydanticCustomError("dcnify", "{words}", {"words": words, "at": at})


def shown(value: Any) -> str:
    """A value the way its author wrote it, short enough for one line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        if not all(isinstance(item, str | int | float | None) for item in value):
            return "a list"
        value = list(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _pair(least: int, words: str):
    def check(value: Any) -> tuple[int, int]:
        if is_int(value, least):
            return (value, value)
        if isinstance(value, list | tuple) and len(value) == 2:
            height, width = value
            if is_int(height, least) and is_int(width, least):
                return (height, width)
        raise refuse(f"expected {words}, got {shown(value)}")

    return check


def _pair_type(least: int, words: str) -> Any:
    number = {"type": "integer", "minimum": least}
    return Annotated[
        tuple[int, int],
        BeforeValidator(_pair(least, words)),
        WithJsonSchema(
            {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]}
        ),
    ]


Kernel = _pair_type(1, "an integer or [h, w]")
FactPair = _pair_type(0, "an integer, [h, w] or {min: ..., max: ...}")


def _fact_int(value: Any) -> int:
    if is_int(value, 0):
        return value
    raise refuse(f"expected an integer or {{min: ..., max: ...}}, got {shown(value)}")


FactInt = Annotated[
    int, BeforeValidator(_fact_int), WithJsonSchema({"type": "integer", "minimum": 0})
]


def _image(value: Any) -> tuple[int, int, int]:
    if isinstance(value, list | tuple) and len(value) == 3 and all(is_int(n, 1) for n in value):
        return tuple(value)
    raise refuse(f"expected [channels, height, width], got {shown(value)}")


ImageShape = Annotated[
    tuple[int, int, int],
    BeforeValidator(_image),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 3,
            "maxItems": 3,
        }
    ),
]


def _odd(value: Any) -> int:
    if is_int(value, 1) and value % 2:
        return value
    raise refuse(f"expected an odd integer or null, got {shown(value)}")


Odd = Annotated[
    int,
    BeforeValidator(_odd),
    WithJsonSchema({"type": "integer", "minimum": 1, "not": {"multipleOf": 2}}),
]


def _pattern(value: Any) -> str:
    if not isinstance(value, str):
        raise refuse(f"expected a pattern such as 'stages.*.conv_dw', got {shown(value)}")
    if words := patterns.problem(value):
        raise refuse(words)
    return value


Pattern = Annotated[str, BeforeValidator(_pattern), Field(min_length=1)]

T = TypeVar("T")


def _listed(value: Any) -> Any:
    """A single item becomes a list of one; a missing one stays missing."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return value if value is None else (value,)


class _AlsoItem:
    """Adds the bare item to the JSON Schema of a list."""

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        schema = handler(core_schema)
        return {"anyOf": [schema["items"], schema]}


@dataclass(frozen=True)
class AlsoWord:
    """Adds bare words to the JSON Schema of a mapping."""

    words: tuple[str, ...]

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "enum": list(self.words)}, handler(core_schema)]}


OneOrMore = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(_listed), _AlsoItem()]
ZeroOrMore = Annotated[tuple[T, ...], BeforeValidator(_listed), _AlsoItem()]

StageIndex = Annotated[int, Strict(), Field(ge=0)]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Size = Annotated[int, Strict(), Field(ge=1)]
Count = Annotated[int, Strict(), Field(ge=0)]
Text = Annotated[str, Strict()]
