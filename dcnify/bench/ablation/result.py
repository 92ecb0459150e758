"""Results of an ablation of the layer. Plain data; times in microseconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dcnify.bench.machine import Machine
from dcnify.bench.result import Contender, Skipped, Timing


@dataclass(frozen=True, kw_only=True)
class VariantTiming(Timing):
    """One variant in one case. Ratios are its time over the base's, round by round."""

    variant: str
    ratio_p20: float
    ratio_p50: float
    ratio_p80: float


@dataclass(frozen=True)
class AblationCase:
    """Everything measured in one interleaved run; the base comes first."""

    shape: str
    batch: int
    dtype: str
    pass_name: str
    clock: str
    """``device`` for CUDA events, ``wall`` on a CPU."""
    timings: tuple[VariantTiming, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ``pass_name`` called ``pass``."""
        return {("pass" if k == "pass_name" else k): v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class AblationReport:
    """One run of ``dcnify bench op --ablation``."""

    date: str
    machine: Machine
    offset_spread: float
    seconds: float
    seed: int
    variants: tuple[Contender, ...]
    cases: tuple[AblationCase, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "cases": [case.to_dict() for case in self.cases]}
