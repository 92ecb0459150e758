"""The result of an export: the file, and how close what it computes is to the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """The exported model beside the PyTorch model on some images."""

    what: str
    """Which images: ``golden output``, ``photographs``, ..."""
    images: int
    size: tuple[int, int]
    """Height and width."""
    error: float
    """Largest relative error of an output: norm of the difference over norm of the output."""
    agreement: float | None = None
    """Share of images with the same most likely class; None for a model without classes."""


@dataclass(frozen=True)
class Exported:
    """An exported model that was written and compared."""

    path: Path
    format: str
    dtype: str
    inputs: dict[str, tuple[int | str, ...]]
    """Shapes by name; an axis of any size has a name."""
    outputs: dict[str, tuple[int | str, ...]]
    layers: dict[str, int]
    """How many operators of ours became what: ``{"DeformConv": 12}``."""
    folded: tuple[str, ...]
    """Layers that were written as depthwise convolutions."""
    comparisons: tuple[Comparison, ...]
    limit: float
    """The largest relative error that was allowed."""
    bytes: int
    opset: int | None = None
    notes: tuple[str, ...] = ()
    against: Comparison | None = None
    """Beside the model that was converted, which nothing is required of."""

    @property
    def error(self) -> float:
        """The largest relative error of all comparisons."""
        return max(one.error for one in self.comparisons)
