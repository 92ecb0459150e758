"""The result of a conversion: the model, its plan, and its fidelity."""

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
    """A new layer compared with the old one on the original model's own activations."""

    path: str
    sqnr_db: float
    """10·log10(signal power / error power) of the layer's output."""
    cosine: float
    reverted: bool = False
    """A ``require`` was missed and the original layer was put back."""


@dataclass(frozen=True)
class OutputFidelity:
    """The converted model compared with the original at the output."""

    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    """None unless the output is (B, classes)."""
    images: int
    relative_error: float = 0.0
    """Norm of the difference over norm of the original's output."""
    accuracy: float | None = None
    """Accuracy of the converted model on these images; None without labels."""
    original_accuracy: float | None = None
    """Accuracy of the original on the same images."""
    kl: float | None = None
    """Mean KL(original || converted) in nats; None unless the output is (B, classes)."""
    uninformative: str | None = None
    """Why the above says little about the new layers, if so: an untrained original, or one whose
    output does not depend on them."""


@dataclass(frozen=True)
class OutputRequirement:
    """The recipe's ``require`` of the output, and whether it is met."""

    asked: dict[str, Any]
    met: bool | None
    """None: it was not checked, and ``reason`` says why."""
    reason: str = ""
    """Why it is not met, or was not checked."""


@dataclass(frozen=True)
class StepFidelity:
    """The fidelity after one step of the ``init``."""

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
    """Where the images of the fidelity came from, how many, and their size; with other inputs
    of the model, ``other_inputs``: their shapes, repeated for every batch."""
    sites: tuple[SiteFidelity, ...]
    output: OutputFidelity | None
    parameters: tuple[int, int]
    """Number of parameters of the whole model, before and after."""
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    steps: tuple[StepFidelity, ...] = ()
    """The fidelity after each step of the ``init``, where there is more than one. The last equals
    ``sites`` and ``output``, except for layers that were reverted since."""
    require: OutputRequirement | None = None

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
    """The converted model (the same object that was passed in), its plan and its report."""

    model: nn.Module
    plan: Plan
    report: Report
    recipe: Recipe
    example: Example | None = None
    """How the model was called."""
