"""Requests as plain data: frozen dataclasses, JSON in and out, with words for a command line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Self, get_type_hints

from dcnify.errors import InputError
from dcnify.words import did_you_mean


@dataclass(frozen=True)
class Option:
    """What a command line needs to know of one field."""

    help: str
    flags: tuple[str, ...] = ()
    """``("--image-count", "-n")``; by default the field's name with dashes."""
    metavar: str | None = None
    least: float | None = None
    most: float | None = None

    def check(self, flag: str, value: Any) -> None:
        """
        Raises:
            InputError: a number is out of range.
        """
        if value is None or (self.least is None and self.most is None):
            return
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        if not least <= value <= most:
            limits = f"{least} or more" if self.most is None else f"{least} to {most}"
            raise InputError(f"{flag} {value}: expected {limits}")


def option(
    default: Any = MISSING,
    *,
    help: str,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a `Spec` that the command line offers as an option.

    Args:
        default: immutable; without one the field is required.
        help: one line for ``--help``.
        flags: other names than the field's own.
        metavar: what stands for the value in ``--help``.
        least: least number that is valid.
        most: greatest number that is valid.
    """
    words = Option(help, flags, metavar, least, most)
    return field(default=default, metadata={"option": words})


def flags_of(name: str, option: Option) -> tuple[str, ...]:
    """The flags of a field: its option's, or else its name with dashes."""
    return option.flags or ("--" + name.replace("_", "-"),)


class Spec:
    """Base of requests. A subclass is a frozen dataclass of JSON values, tuples and other specs."""

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a number is out of its option's range.
        """
        for one in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if words := one.metadata.get("option"):
                words.check(flags_of(one.name, words)[0], getattr(self, one.name))

    def to_dict(self) -> dict[str, Any]:
        """The request as JSON-ready data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[call-overload]  # every subclass is a dataclass

    def to_json(self) -> str:
        """The request as JSON text; `from_json` is its inverse."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; keys that are missing take their defaults.

        Raises:
            InputError: a key is unknown, or a required one is missing.
        """
        hints = get_type_hints(cls)
        known = {one.name: one for one in dataclasses.fields(cls)}  # type: ignore[arg-type]  # as above
        given: dict[str, Any] = {}
        for key, value in data.items():
            if key not in known:
                words = f"{cls.__name__}: unknown key {key!r}{did_you_mean(key, known)}"
                raise InputError(words)
            kind = _spec_in(hints[key])
            if kind is not None and isinstance(value, Mapping):
                value = kind.from_dict(value)
            given[key] = _frozen(value)
        try:
            return cls(**given)
        except TypeError as error:
            raise InputError(f"{cls.__name__}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is not JSON, or not this kind of request.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{cls.__name__}: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise InputError(f"{cls.__name__}: expected a JSON object")
        return cls.from_dict(data)


def _spec_in(hint: Any) -> type[Spec] | None:
    """The spec that a type hint names, alone or beside None."""
    options = (hint, *getattr(hint, "__args__", ()))
    return next((one for one in options if isinstance(one, type) and issubclass(one, Spec)), None)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
