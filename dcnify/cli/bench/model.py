"""dcnify bench model: time a converted model against the original."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.bench.spec import ModelBenchSpec
from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import Artifact, Csv, must_exist
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.bench import ModelReport, PassResult

Against = Annotated[
    SourceSpec | None,
    Offer(
        flags={"source": "--against"},
        help={
            "source": "The model it was converted from; what the artifact names by default. "
            "--arch, --model-arg and --trust-pickle are about this one."
        },
        without=("pretrained", "use_ema", "trust_code", "input_size", "part"),
    ),
]


@dataclass(frozen=True, kw_only=True)
class Here(Spec):
    """Options of this verb alone."""

    input_size: str | None = option(
        None,
        help="Image size: 224, 224x320 (HxW) or 3x224x320. Default: as it was converted at.",
        metavar="SIZE",
    )
    cpu: bool = option(False, help="The same as --device cpu.")
    onnx: tuple[str, ...] = option(
        (),
        help="Time this file too, which 'dcnify export' wrote, in onnxruntime on the CPU. May be "
        "given more than once.",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        for path in self.onnx:
            must_exist(Path(path))


@verb
def model(
    request: Artifact,
    against: Against,
    spec: ModelBenchSpec,
    here: Here,
    files: Csv,
    terminal: Terminal,
) -> None:
    """Time a converted model and the original it was made from, in one interleaved run.

    Both get the same random images, in channels_last. Times are medians for a batch, with the 20th
    and 80th percentile. "0.80 times as fast" means that the original takes 0.80 of the time, round
    by round; below 1 the conversion has made the model slower here.

    \b
    $ dcnify bench model out/
    $ dcnify bench model out/ --onnx model.onnx
    $ dcnify bench model out/ --device cuda --dtype float16 --batch 128 --train
    """
    if here.cpu and spec.device not in (None, "cpu"):
        raise InputError(f"--cpu and --device {spec.device} do not go together")
    written = [f"wrote {path}" for path in files.check()]
    if against is not None:
        against = replace(against, trust_code=request.trust_code)
        against.check()
    from dcnify.artifact import open_source, read_artifact
    from dcnify.bench import settle_models, write_models_csv
    from dcnify.pipeline import time_artifact

    bench = settle_models(replace(spec, device="cpu") if here.cpu else spec)
    record = read_artifact(request.artifact)
    asked = SourceSpec(str(request.artifact), input_size=here.input_size)
    with terminal.progress("opening the models") as shown:
        report, original = time_artifact(
            record,
            bench,
            against=open_source(against, on_progress=shown.phase) if against else None,
            size=asked.input_shape(record.input_shape[1:]),
            trust_code=request.trust_code,
            progress=shown.phase,
            say=terminal.say,
            exported=[Path(path) for path in here.onnx],
        )
    if files.csv:
        files.write(files.csv, lambda path: write_models_csv(report, path))
    data = {"artifact": str(request.artifact), "original": original, **report.to_dict()}
    terminal.emit(data, lambda: [*_render(report, original), *written])


def _render(report: ModelReport, original: str) -> list[Any]:
    parts: list[Any] = [report.machine.line, f"original: {original}", ""]
    shape = "x".join(map(str, report.shape))
    for one in report.passes:
        parts.append(_table(report, one, f"{shape}, {report.dtype}, {one.pass_name}"))
        speedup, rounds = one.speedup, next(iter(one.timings.values())).rounds
        parts += [
            f"converted: {speedup.p50:.2f} times as fast "
            f"(p20-p80 {speedup.p20:.2f}-{speedup.p80:.2f}, {rounds} rounds)",
            *(
                f"{name}: {other.p50:.2f} times (p20-p80 {other.p20:.2f}-{other.p80:.2f})"
                for name, other in one.exported.items()
            ),
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
