"""Compare a file's tensors with a model's: names and shapes, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]

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
            shown = [f"{n}: file {list(a)}, model {list(b)}" for n, a, b in self.reshaped[:2]]
            more = ", ..." if len(self.reshaped) > 2 else ""
            parts.append(f"{len(self.reshaped)} of another shape ({', '.join(shown)}{more})")
        return ", ".join(parts)


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


def unprefixed(shapes: Shapes) -> Iterator[tuple[str, Shapes]]:
    """``shapes`` as they are, then without each prefix that all names share, one part at a time.

    Yields:
        (the prefix that was taken off, the shapes without it).
    """
    prefix = ""
    yield prefix, shapes
    while True:
        heads = {name.partition(".")[0] for name in shapes}
        if len(heads) != 1 or any("." not in name for name in shapes):
            return
        head = f"{heads.pop()}."
        prefix += head
        shapes = {name.removeprefix(head): shape for name, shape in shapes.items()}
        yield prefix, shapes


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
