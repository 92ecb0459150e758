"""What a conversion hands back: the model, its plan, and how close it stayed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dcnify.surgery.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from dcnify.graph.example import Example
    from dcnify.recipe import Recipe


@dataclass(frozen=True)
class SiteFidelity:
    """Old layer against new layer on the original model's own activations."""

    path: str
    sqnr_db: float
    """10·log10(signal power / error power) of the layer's output."""
    cosine: float
    reverted: bool = False
    """A ``require`` was missed and the original layer was put back."""


@dataclass(frozen=True)
class OutputFidelity:
    """Original model against converted model at the output."""

    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    """None where the output is no vector of classes."""
    images: int
    relative_error: float = 0.0
    """Norm of the difference over norm of the original's output."""
    accuracy: float | None = None
    """Of the converted model on these images; None where they have no labels."""
    original_accuracy: float | None = None
    """Of the original on the same."""


@dataclass(frozen=True)
class StepFidelity:
    """What was measured after one step of the ``init``."""

    step: str
    """``transfer``, ``calibrate: layers``, ..."""
    sites: tuple[SiteFidelity, ...]
    output: OutputFidelity


@dataclass(frozen=True)
class Report:
    """Everything measured during one conversion; `to_dict` is the body of ``report.json``."""

    seed: int
    versions: dict[str, str]
    images: dict[str, Any]
    """Where the images of the fidelity came from, how many, and their size."""
    sites: tuple[SiteFidelity, ...]
    output: OutputFidelity | None
    parameters: tuple[int, int]
    """Of the whole model, before and after."""
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    steps: tuple[StepFidelity, ...] = ()
    """The same after each step of the ``init``, where there is more than one; the last is what
    ``sites`` and ``output`` say, but for layers that were reverted since."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data; an infinite SQNR (no error at all) becomes None."""
        return _finite(asdict(self))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@dataclass(frozen=True)
class ConvertResult:
    """The converted model (the live object that was given), its plan and its report."""

    model: nn.Module
    plan: Plan
    report: Report
    recipe: Recipe
    example: Example | None = None
    """How the model was called."""
