"""Compare a file's tensors with a model's: names and shapes, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]

_LONGEST = 100
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Mismatch:
    """What keeps a file's tensors from fitting a model; false when nothing does."""

    missing: tuple[str, ...]
    """Names that the model has and the file has not."""
    unexpected: tuple[str, ...]
    """Names that the file has and the model has not."""
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the file, shape in the model)."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_few(self.missing)})")
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected ({_few(self.unexpected)})")
        if self.reshaped:
            shown = [
                f"{_shown(n)}: file {list(a)}, model {list(b)}" for n, a, b in self.reshaped[:2]
            ]
            more = ", ..." if len(self.reshaped) > 2 else ""
            parts.append(f"{len(self.reshaped)} of another shape ({', '.join(shown)}{more})")
        return ", ".join(parts)


@dataclass(frozen=True)
class Reading:
    """One way to read a file's names."""

    prefix: str
    """What the names start with in the file and not here."""
    shapes: Shapes
    left_out: tuple[str, ...] = ()
    """Names of the file that are not of its backbone."""

    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The file's ``tensors`` under the names of this reading."""
        return {self._short(k): v for k, v in tensors.items() if self._short(k) in self.shapes}

    def notes(self) -> list[str]:
        """What was taken off the names and which tensors were left out, in words."""
        notes = [f"took the prefix {self.prefix!r} off the names"] if self.prefix else []
        if self.left_out:
            counts = Counter(name.partition(".")[0] for name in self.left_out).most_common()
            shown = ", ".join(f"{count} of {_shown(head)}" for head, count in counts[:4])
            more = ", ..." if len(counts) > 4 else ""
            notes.append(f"left out {len(self.left_out)} tensors beside it: {shown}{more}")
        return notes

    def _short(self, name: str) -> str | None:
        return name.removeprefix(self.prefix) if name.startswith(self.prefix) else None


def compare(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> Mismatch:
    """Compare the shapes ``have`` of a file with the shapes ``want`` of a model.

    The counter of a batch norm (``num_batches_tracked``) may be missing: files from before it
    existed are whole without it.
    """
    return Mismatch(
        missing=tuple(k for k in want if k not in have and not k.endswith("num_batches_tracked")),
        unexpected=tuple(k for k in have if k not in want),
        reshaped=tuple((k, have[k], want[k]) for k in want if k in have and have[k] != want[k]),
    )


def shapes_of(tensors: nn.Module | Mapping[str, Tensor]) -> Shapes:
    """The names and shapes of a state dict, or of a module's."""
    named = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    return {k: tuple(v.shape) for k, v in named.items() if isinstance(v, Tensor)}


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Map each name to itself without what DDP and torch.compile put before or inside it."""
    cleaned = {}
    for name in names:
        short = name
        while short.startswith(_WRAPPERS):
            short = short.removeprefix("module.").removeprefix("_orig_mod.")
        cleaned[name] = short.replace("._orig_mod.", ".")
    return cleaned


def readings(shapes: Shapes) -> Iterator[Reading]:
    """The ways to read ``shapes``: as they are, then without what hides the model.

    Prefixes that all names share go one part at a time. Where none is left and part of the names
    lies under ``backbone.`` (a detector's, a segmenter's), these are read without the others.
    """
    prefix, left_out = "", ()
    yield Reading(prefix, shapes)
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
        yield Reading(prefix, shapes, left_out)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(map(_shown, names[:2])) + (", ..." if len(names) > 2 else "")


def _shown(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
