"""dcnify bench model: how fast a converted model is, beside the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcnify.cli.bench_options import Csv, Device, Seconds, Seed, Threads
from dcnify.cli.options import ArtifactPath, AsJson, Overwrite, Quiet
from dcnify.cli.output import emit, say, table
from dcnify.cli.phases import phases
from dcnify.cli.sources import (
    Arch,
    Given,
    ModelArgs,
    TrustCode,
    TrustPickle,
    need_source,
    parse_size,
)
from dcnify.errors import InputError

if TYPE_CHECKING:
    from dcnify.bench import ModelReport, PassResult

Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="SOURCE",
        help="The model it was converted from; what the artifact names by default. --arch, "
        "--model-arg and --trust-pickle are about this one.",
        show_default=False,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        help="Images at once. Default: 64 on CUDA, 4 on a CPU.",
        show_default=False,
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        metavar="SIZE",
        help="Image size: 224, 224x320 (HxW) or 3x224x320. Default: as it was converted at.",
        show_default=False,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Of images and weights: float16, bfloat16, float32 or float64. Default: as the "
        "artifact's weights are.",
        show_default=False,
    ),
]
Train = Annotated[
    bool, typer.Option("--train", help="Time forward and backward together too, as in training.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="The same as --device cpu.")]


def model(
    artifact: ArtifactPath,
    against: Against = None,
    batch: Batch = None,
    input_size: InputSize = None,
    dtype: Dtype = None,
    train: Train = False,
    device: Device = None,
    cpu: Cpu = False,
    seconds: Seconds = None,
    csv: Csv = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    seed: Seed = 0,
    arch: Arch = None,
    model_arg: ModelArgs = None,
    trust_pickle: TrustPickle = False,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time a converted model and the original it was made from, in one interleaved run.

    Both see the same random images, in channels_last. Times are medians for a batch, with the 20th
    and 80th percentile. "0.80 times as fast" says that the original takes 0.80 of the time, round
    by round; below 1 the conversion has made the model slower here.

    \b
    $ dcnify bench model out/
    $ dcnify bench model out/ --device cuda --dtype float16 --batch 128 --train
    """
    from dcnify.artifact import read_artifact
    from dcnify.bench import settle_models, write_models_csv
    from dcnify.files import check_file, write_file
    from dcnify.pipeline import time_artifact

    options = {"--arch": arch, "--model-arg": model_arg, "--trust-pickle": trust_pickle}
    need_source(against, options)
    if cpu and device not in (None, "cpu"):
        raise InputError(f"--cpu and --device {device} do not go together")
    if csv:
        check_file(csv, overwrite)
    bench = settle_models(
        batch=batch,
        dtype=dtype,
        device="cpu" if cpu else device,
        seconds=seconds,
        train=train,
        threads=threads,
        seed=seed,
    )
    record = read_artifact(artifact)
    size = parse_size(input_size, record.input_shape[1])
    with phases("opening the models", quiet=quiet or as_json) as step:
        given = Given(against or "", arch, model_arg, False, False, trust_pickle, trust_code)
        report, original = time_artifact(
            record,
            bench,
            against=given.open(step) if against else None,
            size=size,
            trust_code=trust_code,
            step=step,
            say=lambda text: say(text, quiet=quiet),
        )
    if csv:
        write_file(csv, lambda path: write_models_csv(report, path), overwrite)
    data = {"artifact": str(artifact), "original": original, **report.to_dict()}
    written = [f"wrote {csv}"] if csv else []
    emit(as_json, data, lambda: [*_render(report, original), *written])


def _render(report: ModelReport, original: str) -> list[Any]:
    parts: list[Any] = [report.machine.line, f"original: {original}", ""]
    shape = "x".join(map(str, report.shape))
    for one in report.passes:
        parts.append(_table(report, one, f"{shape}, {report.dtype}, {one.pass_name}"))
        speedup, rounds = one.speedup, next(iter(one.timings.values())).rounds
        parts += [
            f"converted: {speedup.p50:.2f} times as fast "
            f"(p20-p80 {speedup.p20:.2f}-{speedup.p80:.2f}, {rounds} rounds)",
            "",
        ]
    if report.machine.device == "cpu":
        return [*parts, "these are times of the CPU kernels; they say nothing of a GPU"]
    return parts[:-1]


def _table(report: ModelReport, one: PassResult, title: str) -> Any:
    from dcnify.surgery.table import short_count

    columns = ("model", ">ms", ">p20-p80", ">images/s", ">params", ">FLOPs an image")
    rows = []
    for name, timing in one.timings.items():
        size, memory, rate = report.models[name], timing.peak_memory_bytes, timing.images_per_s
        row = (
            name,
            _ms(timing.p50_us),
            f"{_ms(timing.p20_us)}-{_ms(timing.p80_us)}",
            f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",
            short_count(size.parameters),
            "not counted" if size.flops is None else short_count(size.flops),
        )
        rows.append(row if memory is None else (*row, f"{memory / 2**20:,.0f} MiB"))
    more = (">peak memory",) if report.machine.device != "cpu" else ()
    return table((*columns, *more), rows, title)


def _ms(microseconds: float) -> str:
    milliseconds = microseconds / 1e3
    return f"{milliseconds:,.1f}" if milliseconds >= 10 else f"{milliseconds:.2f}"
