"""What the graph room hands to everybody else: plain, frozen descriptions of sites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Pair = tuple[int, int]

ROLES = ("depthwise_conv", "attention", "dcnv3")


@dataclass(frozen=True)
class Site:
    """One place in the model that a swap could replace.

    Shapes are those of the captured call, batch first. ``layout`` names the axes of the input and
    output: ``BCHW``, ``BHWC`` or ``BNC`` (tokens). Pairs are (height, width).
    """

    path: str
    role: str
    layout: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    channels: int
    grid: Pair
    """Rows and columns of the input: the feature map, or the tokens without their prefix."""
    stage: int
    parameters: int
    flops: int
    """Floating-point operations of the captured call; a multiply-add counts as two."""
    kernel: Pair | None = None
    stride: Pair | None = None
    dilation: Pair | None = None
    padding: tuple[int, int, int, int] | None = None
    """Zero padding in force at the captured size: (top, bottom, left, right)."""
    padding_policy: str = "fixed"
    """``fixed``, or ``same`` when the layer recomputes its padding from the input size."""
    bias: bool = False
    heads: int | None = None
    groups: int | None = None
    """Groups of channels that share their sampling points."""
    prefix_tokens: int = 0
    returns: str = "tensor"
    """What the caller expects back: ``tensor``, or ``tuple`` whose first item is the tensor."""
    calls: int = 1
    """How often one forward pass runs this module."""
    aliases: tuple[str, ...] = ()
    """Other paths under which the model holds the very same module."""

    def to_dict(self) -> dict[str, Any]:
        """The site as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Site:
        """Inverse of `to_dict`; lists become tuples again."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


@dataclass(frozen=True)
class NearMiss:
    """Something that looked like a site and is not one, with the reason in words."""

    path: str
    role: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Sites(Sequence[Site]):
    """All sites of one model in the order the forward pass reaches them; a sequence of `Site`."""

    sites: tuple[Site, ...]
    near_misses: tuple[NearMiss, ...]
    module_paths: tuple[str, ...]
    """Every module path of the model, for suggestions when a selector hits nothing."""

    def __getitem__(self, index):  # type: ignore[override]  # Sequence wants overloads for slices
        return self.sites[index]

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)
