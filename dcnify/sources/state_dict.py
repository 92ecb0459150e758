"""Compare a checkpoint's state dict with a model's by name and shape, and peel key prefixes off."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]

_LONGEST = 100


@dataclass(frozen=True)
class Mismatch:
    """The differences between a state dict and a model's; false if there are none."""

    missing: tuple[str, ...]
    """Names that only the model has."""
    unexpected: tuple[str, ...]
    """Names that only the state dict has."""
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the state dict, shape in the model)."""

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        shown = [f"{_short(n)}: file {list(a)}, model {list(b)}" for n, a, b in self.reshaped[:2]]
        groups = (
            ("missing", self.missing, map(_short, self.missing[:2])),
            ("unexpected", self.unexpected, map(_short, self.unexpected[:2])),
            ("of another shape", self.reshaped, shown),
        )
        return ", ".join(
            f"{len(found)} {what} ({', '.join(first)}{', ...' if len(found) > 2 else ''})"
            for what, found, first in groups
            if found
        )


@dataclass(frozen=True)
class PrefixView:
    """The part of a state dict under a key prefix, with the prefix removed."""

    prefix: str
    shapes: Shapes
    left_out: tuple[str, ...] = ()
    """Names that do not belong to the backbone."""

    def select(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This part of ``tensors``, the whole state dict, under the names without the prefix."""
        short = {k.removeprefix(self.prefix): k for k in tensors if k.startswith(self.prefix)}
        return {name: tensors[key] for name, key in short.items() if name in self.shapes}

    def notes(self) -> list[str]:
        """Notes on the prefix that was removed and the tensors that were left out."""
        notes = [f"took the prefix {self.prefix!r} off the names"] if self.prefix else []
        if self.left_out:
            counts = Counter(name.partition(".")[0] for name in self.left_out).most_common()
            shown = ", ".join(f"{count} of {_short(head)}" for head, count in counts[:4])
            more = ", ..." if len(counts) > 4 else ""
            notes.append(f"left out {len(self.left_out)} tensors beside it: {shown}{more}")
        return notes


def compare(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> Mismatch:
    """Compare the shapes ``have`` of a state dict with the shapes ``want`` of a model.

    The counter of a batch norm (``num_batches_tracked``) may be missing: files from before it
    existed are whole without it.
    """
    return Mismatch(
        missing=tuple(k for k in want if k not in have and not k.endswith("num_batches_tracked")),
        unexpected=tuple(k for k in have if k not in want),
        reshaped=tuple((k, have[k], want[k]) for k in want if k in have and have[k] != want[k]),
    )


def shapes_of(tensors: nn.Module | Mapping[str, Tensor]) -> Shapes:
    """Names and shapes of a state dict, or of a module's."""
    named = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    return {k: tuple(v.shape) for k, v in named.items() if isinstance(v, Tensor)}


def prefix_views(shapes: Shapes) -> Iterator[PrefixView]:
    """``shapes`` as they are, then without the key prefixes that hide the model.

    Prefixes that all names share go one part at a time. Where none is left and part of the names
    lies under ``backbone.`` (a detector's, a segmenter's), these are viewed without the others.
    """
    prefix = ""
    left_out: tuple[str, ...] = ()
    yield PrefixView(prefix, shapes)
    while True:
        heads = {name.partition(".")[0] for name in shapes}
        if len(heads) > 1 and not left_out:
            heads = {head for head in heads if head.endswith("backbone")}
            left_out = tuple(n for n in shapes if n.partition(".")[0] not in heads)
        shapes = {n: s for n, s in shapes.items() if n.partition(".")[0] in heads}
        if len(heads) != 1 or any("." not in name for name in shapes):
            return
        head = f"{heads.pop()}."
        prefix += head
        shapes = {name.removeprefix(head): shape for name, shape in shapes.items()}
        yield PrefixView(prefix, shapes, left_out)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
