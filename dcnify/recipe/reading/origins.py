"""Where each key and value of a recipe came from: a line of a file, or a ``--set``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

DataPath = tuple[str | int, ...]
"""Keys and list indices from the root of a recipe's data, such as ``("swaps", 0, "name")``."""

NAMED: dict[DataPath, str] = {
    ("swaps",): "swap",
    ("finetune", "stages"): "stage",
    ("stages",): "stage",  # where a fine-tuning section is a document by itself
}
"""Lists whose items go by their names, and what one item is called."""


@dataclass(frozen=True, order=True)
class Place:
    """One position, 1-based. Line 0 means the origin as a whole: a ``--set``, or a file's name.

    Places sort by line, so what was typed on the command line comes before what is in the file.
    """

    line: int
    column: int
    origin: str

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}:{self.column}" if self.line else self.origin


@dataclass(frozen=True)
class Origins:
    """The places of one recipe's keys and values.

    Two `Origins` are always equal: where a recipe was written down is not part of what it says.
    """

    name: str = field(default="", compare=False)
    keys: dict[DataPath, Place] = field(default_factory=dict, compare=False, repr=False)
    values: dict[DataPath, Place] = field(default_factory=dict, compare=False, repr=False)

    def key(self, path: Sequence[str | int]) -> Place:
        """The place of a key itself; of its value or what holds it when the key has none."""
        return self.keys.get(tuple(path)) or self.value(path)

    def value(self, path: Sequence[str | int]) -> Place:
        """The place of a value, or of the nearest thing around it that has a place."""
        path = tuple(path)
        for length in range(len(path), -1, -1):
            if place := self.values.get(path[:length]):
                return place
        return Place(0, 0, self.name)

    def prefix(self, path: Sequence[str | int]) -> str:
        """``"recipe.yaml:12:5: "``, or nothing for a recipe that was built in Python."""
        place = str(self.value(path))
        return f"{place}: " if place else ""

    def moved(self, old: DataPath, new: DataPath) -> Origins:
        """These places once all that lies beneath ``old`` lies beneath ``new``."""

        def carried(places: dict[DataPath, Place]) -> dict[DataPath, Place]:
            beneath = [p for p in places if len(p) > len(old) and p[: len(old)] == old]
            kept = {p: at for p, at in places.items() if p not in set(beneath)}
            return kept | {(*new, *p[len(old) :]): places[p] for p in beneath}

        return Origins(self.name, carried(self.keys), carried(self.values))

    def within(self, path: DataPath) -> Origins:
        """The places of what lies at ``path`` and beneath it, by paths that begin there."""

        def inner(places: dict[DataPath, Place]) -> dict[DataPath, Place]:
            return {p[len(path) :]: at for p, at in places.items() if p[: len(path)] == path}

        return Origins(self.name, inner(self.keys), {(): self.value(path)} | inner(self.values))

    def overridden(self, path: DataPath, label: str) -> Origins:
        """These places once ``path`` is what ``label`` (a ``--set``) says."""
        place = Place(0, 0, label)

        def kept(places: dict[DataPath, Place]) -> dict[DataPath, Place]:
            return {p: at for p, at in places.items() if p[: len(path)] != path}

        # A key that already stood in the file keeps its mapping; one that did not is the --set's.
        created = [
            path[:length]
            for length in range(1, len(path) + 1)
            if path[:length] not in self.values or length == len(path)
        ]
        marks = dict.fromkeys(created, place)
        return Origins(self.name, kept(self.keys) | marks, kept(self.values) | marks)
