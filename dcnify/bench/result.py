"""Results of benchmarks, of the operator and of models. Plain data; times in microseconds."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from dcnify.bench.machine import Machine

COPY = "copy"
"""The contender that only moves as many bytes as the operator has to."""


@dataclass(frozen=True)
class Timing:
    """Percentiles of one call's time, in microseconds."""

    p20_us: float
    p50_us: float
    p80_us: float
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Measurement(Timing):
    """One contender in one case."""

    contender: str
    ratio_to_ours: float
    """Its median over ours: above 1 we are faster."""
    gb_per_s: float | None = None
    """The operator's floor of bytes over its median; none for what computes something else."""
    share_of_copy: float | None = None
    """Those bytes per second over what the copy reached."""
    max_rel_error: float | None = None
    """Largest relative error of output and gradients against ours."""


@dataclass(frozen=True)
class Skipped:
    """A contender that was not timed in a case, and why."""

    contender: str
    reason: str


@dataclass(frozen=True)
class Contender:
    """Who takes part, and what that is."""

    name: str
    about: str


@dataclass(frozen=True)
class CaseResult:
    """Everything measured in one interleaved run."""

    shape: str
    batch: int
    groups: int
    dtype: str
    pass_name: str
    clock: str
    """``device`` for CUDA events, ``wall`` on a CPU, ``host`` for what a call keeps the host."""
    floor_bytes: int
    measurements: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ``pass_name`` called ``pass``."""
        return _with_pass(self)

    def of(self, contender: str) -> Measurement | None:
        """The measurement of a contender, if it has one."""
        found = (m for m in self.measurements if m.contender == contender)
        return next(found, None)


@dataclass(frozen=True)
class Report:
    """One run of ``dcnify bench op``."""

    date: str
    machine: Machine
    offset_spread: float
    seconds: float
    seed: int
    contenders: tuple[Contender, ...]
    """Ours, the copy, then the rivals."""
    not_installed: tuple[Contender, ...]
    cases: tuple[CaseResult, ...]
    host: tuple[CaseResult, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        for several in ("cases", "host"):
            plain[several] = [case.to_dict() for case in getattr(self, several)]
        return plain

    def tables(self) -> Iterator[tuple[str, str, tuple[CaseResult, ...]]]:
        """Cases that belong side by side: (dtype, pass, a case for each shape)."""
        together: dict[tuple[str, str], list[CaseResult]] = {}
        for case in self.cases:
            together.setdefault((case.dtype, case.pass_name), []).append(case)
        for (dtype, pass_name), cases in together.items():
            yield dtype, pass_name, tuple(cases)


@dataclass(frozen=True)
class ModelSize:
    """The size of a model."""

    parameters: int
    flops: int | None
    """Of one image forward, as `torch.utils.flop_counter` counts them; None where it cannot."""


@dataclass(frozen=True, kw_only=True)
class ModelTiming(Timing):
    """One model in one pass: the time for a batch."""

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
    exported: dict[str, Speedup] = field(default_factory=dict)
    """The same of exported models, by name."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with ``pass_name`` called ``pass``."""
        return _with_pass(self)


def _with_pass(result: CaseResult | PassResult) -> dict[str, Any]:
    return {("pass" if k == "pass_name" else k): v for k, v in asdict(result).items()}


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
