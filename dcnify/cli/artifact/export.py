"""dcnify export: a converted model as an ONNX file, or in PyTorch's own formats."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import Overwrite, Source
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.data.spec import ImageSpec
from dcnify.export.spec import ExportSpec
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

if TYPE_CHECKING:
    from dcnify.export.result import Comparison, Exported

Images = Annotated[
    ImageSpec,
    Offer(
        help={
            "images": "Images to compare the exported model on; photographs that ship with "
            "packages by default.",
            "image_count": "How many images to compare on; 8 photographs by default, or 16 of "
            "--images.",
        }
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgainstSpec(Spec):
    """Another model to compare with."""

    against: str | None = option(
        None,
        help="The model it was converted from: how far the exported one is from that is shown too. "
        "--arch, --model-arg and the like are then about this one.",
        metavar="SOURCE",
    )


@verb
def export(
    source: Source,
    spec: ExportSpec,
    images: Images,
    other: AgainstSpec,
    files: Overwrite,
    terminal: Terminal,
) -> None:
    """Write a model as ONNX or as a PyTorch program, run that, and compare it with the model.

    The new layers become ONNX's DeformConv. Exit code 3, and no file, if what the file computes is
    not what the model does.

    \b
    $ dcnify export out/ -o model.onnx
    $ dcnify export out/ -o model.onnx --dynamic batch,height,width --dtype fp16
    $ dcnify export out/ -o model.pt2 --dynamic batch
    """
    spec.check(files.overwrite)
    before = None
    if other.against is not None:
        before = dataclasses.replace(source, source=other.against, input_size=None, part=None)
        before.check()
        kept = {name: getattr(source, name) for name in ("trust_code", "input_size", "part")}
        source = SourceSpec(source.source, **kept)
    source.check()
    from dcnify.artifact import open_source
    from dcnify.export.run import run
    from dcnify.export.subject import open_subject

    with terminal.progress("opening the model") as shown:
        subject = open_subject(source, shown.phase)
        batch = images.load(
            subject.example.shape[1:], **subject.images.known(), progress=shown.phase
        )
        done = run(
            subject,
            spec,
            images=batch.tensor if batch else None,
            against=open_source(before, on_progress=shown.phase).model if before else None,
            overwrite=files.overwrite,
            progress=shown.phase,
        )
    for words in batch.remarks() if batch else ():
        terminal.warn(words)
    for words in done.notes:
        terminal.say(words)
    terminal.emit(_data(done), lambda: _render(done, spec.fold_static))


def _data(done: Exported) -> dict[str, Any]:
    return {**dataclasses.asdict(done), "path": str(done.path), "error": done.error}


def _render(done: Exported, asked_to_fold: bool) -> list[Any]:
    rows = [_row(one, f"{done.limit:g}") for one in done.comparisons]
    if done.against is not None:
        against = dataclasses.replace(done.against, what="the model it was converted from")
        rows.append(_row(against, ""))
    columns = ("compared on", ">images", "size", ">error", ">limit", ">same class")
    layers = ", ".join(f"{count} {name}" for name, count in done.layers.items())
    version = f", opset {done.opset}" if done.opset is not None else ""
    parts: list[Any] = [table(columns, rows), ""]
    for title, shapes in (("input", done.inputs), ("output", done.outputs)):
        parts += [f"{title} {name}: {'x'.join(map(str, one))}" for name, one in shapes.items()]
    if asked_to_fold:
        found = len(done.folded) or "no"
        parts.append(f"{found} layers with fixed points, written as depthwise convolutions")
    what = f"{done.format}{version}, {done.dtype}{', ' + layers if layers else ''}"
    return [*parts, f"wrote {done.path} ({what}, {done.bytes / 2**20:,.1f} MiB)"]


def _row(one: Comparison, limit: str) -> tuple[object, ...]:
    same = "" if one.agreement is None else f"{one.agreement:.0%}"
    rows, columns = one.size
    return one.what, one.images, f"{rows}x{columns}", f"{one.error:.1e}", limit, same
