"""What `dcnify.bench.models` gives back. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dcnify.bench.machine import Machine


@dataclass(frozen=True)
class ModelSize:
    """What a model is made of."""

    parameters: int
    flops: int | None
    """Of one image forward, as `torch.utils.flop_counter` counts them; None where it cannot."""


@dataclass(frozen=True)
class ModelTiming:
    """One model in one pass: percentiles of the time for a batch, in microseconds."""

    p20_us: float
    p50_us: float
    p80_us: float
    rounds: int
    images_per_s: float
    """Of the median."""
    peak_memory_bytes: int | None
    """Weights, and what a call takes besides; None on a CPU, where torch does not count it."""


@dataclass(frozen=True)
class Speedup:
    """Percentiles of the original's time over the converted model's, round by round."""

    p20: float
    p50: float
    p80: float


@dataclass(frozen=True)
class PassResult:
    """Both models in one interleaved run."""

    pass_name: str
    """``forward`` or ``forward+backward``."""
    clock: str
    """``device`` for CUDA events, ``wall`` on a CPU."""
    timings: dict[str, ModelTiming]
    speedup: Speedup

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ``pass_name`` called ``pass``."""
        return {("pass" if k == "pass_name" else k): v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class ModelReport:
    """Everything measured of the two."""

    date: str
    machine: Machine
    shape: tuple[int, int, int, int]
    """(B, C, H, W) of the images."""
    dtype: str
    """Of images and weights."""
    seconds: float
    seed: int
    models: dict[str, ModelSize]
    passes: tuple[PassResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **asdict(self),
            "shape": list(self.shape),
            "passes": [one.to_dict() for one in self.passes],
        }
