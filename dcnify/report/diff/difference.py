"""Differences as plain data, and how they are found between nested data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dcnify.report.quantity import Quantity


@dataclass(frozen=True)
class Change:
    """One thing that differs. None is what one side does not have."""

    what: str
    a: Any
    b: Any
    layers: tuple[str, ...] = ()
    """The layers that it is true of; empty where it is not about layers."""


@dataclass(frozen=True)
class WeightChange:
    """How far the tensors of one layer are apart."""

    layer: str
    tensors: int
    """Tensors of the same name and shape on both sides."""
    changed: int
    """How many of them differ."""
    distance: float
    """Norm of all their differences over the norm of the first side's tensors."""
    unmatched: int
    """Tensors that one side alone has, or that have another shape."""

    @property
    def same(self) -> bool:
        """Whether all tensors are equal."""
        return not self.changed and not self.unmatched


@dataclass(frozen=True)
class Difference:
    """What differs between two sides of one kind."""

    kind: Literal["artifact", "recipe"]
    a: str
    b: str
    changes: Mapping[str, tuple[Change, ...]]
    """By part: recipe, plan, ..."""
    weights: tuple[WeightChange, ...] = ()
    """Every layer that was compared, also where nothing differs."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not any(self.changes.values()) and all(one.same for one in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"same": self.same, **asdict(self)}


def changes(a: Any, b: Any, path: str = "") -> Iterator[Change]:
    """What differs between nested data, by path as ``--set`` writes it.

    What one side alone has is one change, however much is in it. Entries of lists go by their
    names where any is on both sides, so that one that is added shifts no other.
    """
    a, b = _entries(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from changes(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield Change(path, a, b)


def measured(
    what: str, a: float | None, b: float | None, quantity: Quantity, layers: tuple[str, ...] = ()
) -> Iterator[Change]:
    """A measurement, if it differs in the digits that are worth showing."""
    if quantity.text(a) != quantity.text(b):
        yield Change(what, a, b, layers)


def _entries(a: Any, b: Any) -> tuple[Any, Any]:
    """Two lists of mappings as mappings; anything else as it is."""
    sides = (a, b)
    for one in sides:
        if not isinstance(one, list) or not one or not all(isinstance(i, Mapping) for i in one):
            return sides
    names = [[entry.get("name", str(at)) for at, entry in enumerate(one)] for one in sides]
    if not set(names[0]) & set(names[1]):
        names = [[str(at) for at in range(len(one))] for one in sides]
    first, second = (dict(zip(*pair, strict=True)) for pair in zip(names, sides, strict=True))
    return first, second
