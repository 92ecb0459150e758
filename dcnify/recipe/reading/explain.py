"""Says what is wrong with a recipe in one line: where, what was given, what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dcnify.errors import InputError
from dcnify.recipe.reading.origins import NAMED, DataPath, Origins, Place
from dcnify.recipe.reading.shorthand import shown

_EXPECTED = {
    "string_type": "text",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "bool_type": "true or false",
    "float_type": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_MAPPING = ("model_type", "model_attributes_type")


@dataclass(frozen=True)
class _Problem:
    place: Place
    words: str
    path: DataPath
    missing: str | None = None
    unknown: str | None = None


def explain(
    error: ValidationError, data: Any, origins: Origins, model: type[BaseModel]
) -> InputError:
    """The first of pydantic's complaints, by place, as an error for a person."""
    # pydantic also calls a list too short when none of its items is valid.
    details = [
        e for e in error.errors(include_url=False) if e["type"] != "too_short" or not e["input"]
    ]
    problems = [_problem(detail, data, origins, model) for detail in details]
    typos = [
        (p.path, close_name(p.unknown, written_keys_at(model, p.path)))
        for p in problems
        if p.unknown
    ]
    # A misspelt key is also a missing one; say it once.
    problems = [p for p in problems if p.missing is None or (p.path, p.missing) not in typos]
    # What is there and wrong comes before what is not there.
    problems.sort(key=lambda problem: (problem.missing is not None, problem.place))
    first, others = problems[0], len(problems) - 1
    more = f" (and {others} more)" if others else ""
    place = f"{first.place}: " if str(first.place) else ""
    return InputError(f"{place}{first.words}{more}")


def close_name(name: str, valid: Sequence[str]) -> str | None:
    """The valid name that ``name`` was probably meant to be."""
    lowered = {v.lower(): v for v in reversed(valid)}
    matches = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def did_you_mean(name: str, valid: Sequence[str]) -> str:
    """``", did you mean 'late'?"``, or nothing when nothing is close."""
    match = close_name(name, valid)
    return f", did you mean {match!r}?" if match else ""


def label(path: DataPath, data: Any) -> str:
    """``swaps.late.replace.kernel_size``: the path as ``--set`` would write it."""
    words = []
    for depth, part in enumerate(path):
        data = data[part]
        if path[:depth] in NAMED and isinstance(data, dict):
            name = data.get("name")
            part = name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,40}", name) else part
        words.append(str(part))
    return ".".join(words)


def _problem(detail: ErrorDetails, data: Any, origins: Origins, model: type[BaseModel]) -> _Problem:
    kind, context = detail["type"], detail.get("ctx", {})
    path, rest = _follow(detail["loc"], data)
    if kind == "extra_forbidden":
        words, unknown = _unknown_key(path, data, model), str(path[-1])
        return _Problem(origins.key(path), words, path[:-1], unknown=unknown)
    if kind == "missing":
        key = str(rest[-1])
        where = f" in {label(path, data)}" if path else ""
        hint = "; the file starts with 'version: 1'" if key == "version" else ""
        words = f"missing key {key!r}{where}{hint}"
        return _Problem(origins.value(path), words, path, missing=key)
    if kind == "dcnify":
        path, rest = _follow((*path, *context["at"]), data)
        words = context["words"]
    else:
        words = _wrong_value(kind, context, detail["input"], path)
    place, where = origins.value(path), label(path, data)
    said = place == origins.values.get(path) and not place.line  # a --set names its own path
    return _Problem(place, words if said or not where else f"{where}: {words}", path)


def _follow(loc: Sequence[str | int], data: Any) -> tuple[DataPath, tuple[str | int, ...]]:
    """Split pydantic's location into what exists in the data, and what does not.

    A location names parts that the data does not have: forms of a shorthand, a missing key.
    """
    path: list[str | int] = []
    rest: list[str | int] = []
    for part in loc:
        held = part in data if isinstance(data, dict) else False
        held |= isinstance(data, list) and isinstance(part, int) and part < len(data)
        if held:
            path.append(part)
            data = data[part]
        else:
            rest.append(part)
    return tuple(path), tuple(rest)


def _unknown_key(path: DataPath, data: Any, model: type[BaseModel]) -> str:
    key, holder = path[-1], path[:-1]
    valid = written_keys_at(model, holder)
    words = f"unknown key {shown(key)}"
    if hint := did_you_mean(str(key), valid):
        return words + hint
    where = label(holder, data) or f"a {_document(model)}"
    if homes := [home for home, keys in _sections(model) if key in keys]:
        return f"{words} in {where}; it belongs under {' or '.join(map(repr, homes[:2]))}"
    return f"{words}; the keys of {where} are {', '.join(valid)}"


def _wrong_value(kind: str, context: dict[str, Any], given: Any, path: DataPath) -> str:
    got = f"got {shown(given)}"
    if kind == "literal_error":
        words = f"expected {context['expected']}, {got}"
        valid = re.findall(r"'([^']*)'", context["expected"])
        return words + (did_you_mean(given, valid) if isinstance(given, str) else "")
    if path == ("swaps",) and kind in ("tuple_type", "list_type"):
        return f"expected a list of swaps, each beginning with '- name:', {got}"
    if path in NAMED and kind in ("tuple_type", "list_type"):
        return f"expected a list of stages, such as [align, recover], {got}"
    if path == ("finetune",) and kind in _MAPPING:
        return f"expected a list of stages, such as [align, recover], or a mapping, {got}"
    if path[-1:] == ("augment",) and kind in _MAPPING:
        return f"expected none or a mapping, {got}"
    if kind in _EXPECTED:
        quote = "; put it in quotes" if kind == "string_type" and _is_scalar(given) else ""
        return f"expected {_EXPECTED[kind]}, {got}{quote}"
    if kind == "too_long" and isinstance(given, list | tuple):
        return f"expected at most {context['max_length']:,} entries, got {len(given):,}"
    if kind == "too_short":
        return "expected at least one item, got an empty list"
    if kind == "string_pattern_mismatch":
        return f"expected {_characters(context['pattern'])}, {got}"
    if kind == "greater_than_equal":
        return f"expected {context['ge']:.10g} or more, {got}"
    if kind == "less_than_equal":
        return f"expected {context['le']:.10g} or less, {got}"
    if kind == "less_than":
        return f"expected less than {context['lt']:g}, {got}"
    if kind == "greater_than":
        return f"expected more than {context['gt']:g}, {got}"
    message = next((e for e in (context.get("error"),) if e), None) or kind.replace("_", " ")
    return f"{message}, {got}"


def _characters(pattern: str) -> str:
    """What a pattern of names allows, in words."""
    dots = ", ." if "." in pattern else ""
    first = "" if pattern.startswith("^[A-Za-z0-9") else ", beginning with a letter"
    return f"letters, digits{dots}, - and _{first}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def keys_at(model: type[BaseModel], path: DataPath) -> list[str]:
    """The keys that the mapping at ``path`` can hold once short forms are written out."""
    here = _model_at(model, path)
    return [f.alias or name for name, f in here.model_fields.items()] if here else []


def written_keys_at(model: type[BaseModel], path: DataPath) -> list[str]:
    """The keys with which the mapping at ``path`` can be written."""
    return [*getattr(_model_at(model, path), "short_keys", ()), *keys_at(model, path)]


def _model_at(model: type[BaseModel], path: DataPath) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, str) and here is not None:
            fields = {f.alias or name: f for name, f in here.model_fields.items()}
            here = next(_models(fields[part].annotation), None) if part in fields else None
    return here


def _document(model: type[BaseModel]) -> str:
    if "factors" in model.model_fields:
        return "sweep"
    return "recipe" if "swaps" in model.model_fields else "fine-tuning section"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _sections(model: type[BaseModel], name: str = "") -> Iterator[tuple[str, list[str]]]:
    """Every section below ``model`` with the keys it has."""
    for key, field in model.model_fields.items():
        for section in _models(field.annotation):
            yield key, [f.alias or k for k, f in section.model_fields.items()]
            yield from _sections(section, key)
