"""Compare a checkpoint's state dict with a model's by name and shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]

_LONGEST = 100


def of_version(tensors: Mapping[str, Tensor], model: nn.Module) -> OrderedDict[str, Tensor]:
    """The tensors as a state dict that ``model`` itself made.

    Files hold no versions of modules, and some modules refuse a state dict without theirs.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(model.state_dict(), "_metadata", {})  # type: ignore[attr-defined]
    return state


@dataclass(frozen=True)
class Mismatch:
    """The differences between a state dict and a model's; false if there are none."""

    missing: tuple[str, ...]
    """Names that only the model has."""
    unexpected: tuple[str, ...]
    """Names that only the state dict has."""
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the state dict, shape in the model)."""

    def without(self, names: Iterable[str]) -> Mismatch:
        """The same but for unexpected ``names``."""
        gone = set(names)
        return replace(self, unexpected=tuple(k for k in self.unexpected if k not in gone))

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        reshaped = [f"{shown(n)}: file {list(a)}, model {list(b)}" for n, a, b in self.reshaped[:2]]
        groups = (
            ("missing", self.missing, map(shown, self.missing[:2])),
            ("unexpected", self.unexpected, map(shown, self.unexpected[:2])),
            ("of another shape", self.reshaped, reshaped),
        )
        return ", ".join(
            f"{len(found)} {what} ({', '.join(first)}{', ...' if len(found) > 2 else ''})"
            for what, found, first in groups
            if found
        )


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


def shown(name: str) -> str:
    """The name as a message has it: not too long."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
