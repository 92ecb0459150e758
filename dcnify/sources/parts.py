"""Parts of a state dict that may be a model: what lies under one prefix of its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from dcnify.sources.state_dict import Shapes, shown

_DEEPEST = 8
_MOST_PARTS = 16
_SMALLEST_SHARE = 12
"""A part that is looked at without a model in mind has one in so many of the file's tensors."""
_LISTED = 4


@dataclass(frozen=True)
class Part:
    """The part of a state dict under a prefix of the names, which are without it."""

    prefix: str
    shapes: Shapes
    beside: tuple[str, ...] = ()
    """Names that are not under the prefix."""

    @property
    def is_backbone(self) -> bool:
        """Whether the names say that the rest of a larger model stands beside it."""
        return bool(self.beside) and self.prefix.removesuffix(".").endswith("backbone")

    def select(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This part of ``tensors``, the whole state dict, under the names without the prefix."""
        short = {k.removeprefix(self.prefix): k for k in tensors if k.startswith(self.prefix)}
        return {name: tensors[key] for name, key in short.items() if name in self.shapes}

    def notes(self, within: Iterable[str] = ()) -> list[str]:
        """Notes on the prefix and on the tensors left out, ``within`` the part and beside it."""
        notes = [f"took the prefix {self.prefix!r} off the names"] if self.prefix else []
        within = list(within)
        for names, where in ((within, "that the model does not have"), (self.beside, "beside it")):
            if names:
                noun = "tensor" if len(names) == 1 else "tensors"
                notes.append(f"left out {len(names)} {noun} {where}: {_listed(names)}")
        return notes


def parts_of(shapes: Shapes, names: Collection[str] = ()) -> list[Part]:
    """The whole state dict, and the parts of it that may be a model.

    Those are the parts that hold at least half of ``names``, the names of a model's tensors, and
    otherwise large ones: what all names share a prefix of, ``backbone.`` of a detector,
    ``teacher.`` beside ``student.``. Layers, which are numbered, are none.
    """
    found = ["", *_with_names(shapes, set(names)), *_large(shapes)]
    return [_part(shapes, prefix) for prefix in list(dict.fromkeys(found))[:_MOST_PARTS]]


def _part(shapes: Shapes, prefix: str) -> Part:
    own = {k.removeprefix(prefix): shape for k, shape in shapes.items() if k.startswith(prefix)}
    return Part(prefix, own, tuple(k for k in shapes if not k.startswith(prefix)))


def _with_names(shapes: Shapes, names: set[str]) -> Iterator[str]:
    if not names:
        return
    longest = max(name.count(".") for name in names) + 1
    counts: Counter[str] = Counter()
    for whole in shapes:
        rest = whole.split(".")
        for k in range(1, min(len(rest), longest) + 1):
            if (end := ".".join(rest[-k:])) in names:
                counts[whole[: len(whole) - len(end)]] += 1
    yield from (prefix for prefix, count in counts.most_common() if 2 * count >= len(names))


def _large(shapes: Shapes) -> Iterator[str]:
    counts: Counter[str] = Counter()
    children: dict[str, set[str]] = {}
    for whole in shapes:
        rest = whole.split(".", _DEEPEST)
        for k in range(1, min(len(rest), _DEEPEST)):
            prefix = ".".join(rest[:k]) + "."
            counts[prefix] += 1
            children.setdefault(prefix, set()).add(rest[k])
    for prefix, count in counts.items():
        numbered = all(child.isdigit() for child in children[prefix])
        inside = any(part.isdigit() for part in prefix.split(".")[1:])
        if count >= max(2, len(shapes) / _SMALLEST_SHARE) and not numbered and not inside:
            yield prefix


def _listed(names: Collection[str]) -> str:
    """The names, or if they are many, how many start with what."""
    if len(names) < _LISTED:
        return ", ".join(map(shown, names))
    counts = Counter(name.partition(".")[0] for name in names).most_common()
    heads = ", ".join(f"{count} of {shown(head)}" for head, count in counts[:_LISTED])
    return f"{heads}{', ...' if len(counts) > _LISTED else ''}"
