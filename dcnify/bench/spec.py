"""Requests for timings, as plain data."""

from dataclasses import dataclass
from typing import Any

from dcnify.spec import Spec, option

_DTYPES = "float16, bfloat16, float32 or float64"


TIME: dict[str, Any] = {
    "default": None,
    "help": "How long each table is timed, and at least five rounds. Default: 2 on CUDA, 5 on a "
    "CPU.",
    "flags": ("--time",),
    "metavar": "SECONDS",
}
"""The option that says how long to measure."""


@dataclass(frozen=True, kw_only=True)
class BenchSpec(Spec):
    """Where to measure."""

    device: str | None = option(
        None, help="cpu, cuda or cuda:N. Default: cuda where there is one.", metavar="DEVICE"
    )
    threads: int | None = option(None, help="CPU threads. Default: as torch has it.", metavar="N")
    seed: int = option(0, help="Seed of everything random.", least=0, most=2**63 - 1)


@dataclass(frozen=True)
class OpBenchSpec(BenchSpec):
    """The operator's shapes, dtypes, passes, rivals. A text may hold several values with commas."""

    shapes: tuple[str, ...] = option(
        (),
        help="Height, width, channels and groups of the features, such as 56x56x128g4. "
        "Default: all, the seven of the DCNv4 paper.",
        metavar="HxWxCgG,...",
    )
    batch: int | None = option(
        None,
        help="Images. Default: 64 on CUDA, 4 on a CPU, 1 for shapes above 64x64.",
        metavar="N",
    )
    dtypes: tuple[str, ...] = option(
        (),
        help=f"{_DTYPES}. Default: the first three on CUDA, float32 on a CPU.",
        flags=("--dtype",),
        metavar="DTYPE,...",
    )
    passes: tuple[str, ...] = option(
        (),
        help="forward, both (forward and backward together) or all. Default: all.",
        flags=("--pass",),
        metavar="PASS,...",
    )
    rivals: tuple[str, ...] = option(
        (),
        help="dcnv4_torch, grid_sample, deform_conv2d, depthwise7x7, sdpa, dcnv4_cuda, nusu, "
        "nusu_triton, all or none. Default: all. The last three are other packages and are "
        "compared with where they are installed.",
        metavar="NAME,...",
    )
    offset_spread: float = option(
        1.0,
        help="Standard deviation of the offsets, in pixels.",
        flags=("--offsets",),
        metavar="PIXELS",
    )
    seconds: float | None = option(
        None,
        help="Time for each row of a table, and at least five rounds. A rival of which one call "
        "takes longer is left out. Default: 2 on CUDA, 5 on a CPU.",
        flags=("--time",),
        metavar="SECONDS",
    )
    ablation: bool = option(
        False,
        help="Time the whole layer instead, and it with one design choice undone at a time: two "
        "linear layers, LayerNorm and GELU, softmax, kernel, precision. Default: the paper's first "
        "shape, in float16 on CUDA.",
    )


@dataclass(frozen=True)
class ModelBenchSpec(BenchSpec):
    """How to time two models against each other."""

    batch: int | None = option(
        None, help="Images at once. Default: 64 on CUDA, 4 on a CPU.", metavar="N"
    )
    dtype: str | None = option(
        None,
        help=f"Type of images and weights: {_DTYPES}. Default: as the artifact's weights are.",
        metavar="DTYPE",
    )
    seconds: float | None = option(**TIME)
    train: bool = option(False, help="Time forward and backward together too, as in training.")
