"""Export: a model to a file, run there and compared before the file is kept."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from dcnify.data.images import load_images
from dcnify.errors import CheckError, DcnifyError, InputError
from dcnify.export.compare import Beside
from dcnify.export.onnx.file import data_beside
from dcnify.export.program import Program, cast, export_program
from dcnify.export.result import Exported
from dcnify.export.spec import ExportSpec
from dcnify.export.subject import Subject
from dcnify.export.write import write
from dcnify.files import hidden_beside, sweep, sync
from dcnify.graph.calls import like_of
from dcnify.graph.capture import twin_of
from dcnify.nn.static import fold_static
from dcnify.progress import Progress, silent
from dcnify.surgery.prepare import runnable

_PHOTOGRAPHS = 8


def run(
    subject: Subject,
    spec: ExportSpec,
    *,
    images: Tensor | None = None,
    against: nn.Module | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Export a model, compare what was written with it, and keep the file if it is close.

    Args:
        subject: the model.
        spec: the file and its form.
        images: (N, C, H, W), normalised, to compare on; photographs by default.
        against: the model before its conversion, to compare with as well.
        overwrite: replace a file that is there.
        progress: progress callback.

    Raises:
        InputError: the model cannot be exported in this way.
        CheckError: what the file computes is further from the model than ``spec.limit``.
        DcnifyError: the file does not run, or could not be written.
    """
    spec.check(overwrite)
    beside = data_beside(Path(spec.output))
    if spec.kind == "onnx" and beside.exists() and not overwrite:
        raise InputError(f"{beside} exists; pass --overwrite to replace it")
    own = like_of(subject.model).dtype
    dtype = getattr(torch, spec.float_type) if spec.float_type else own
    _check_dtype(spec, dtype)
    if own in (torch.float16, torch.bfloat16):
        subject = subject.in_float32()
    if "batch" in spec.axes:
        subject = subject.in_batches_of(2)
    progress("exporting", 0, 1)
    model = cast(twin_of(subject.model), dtype)
    folded = fold_static(model) if spec.fold_static else ()
    example = subject.example.to("cpu", dtype)
    with runnable(model, example), runnable(subject.model, subject.example):
        program = export_program(model, example, spec.axes)
        program = dataclasses.replace(program, example=subject.example.to("cpu"))
        return _written(
            *(subject, spec, program, dtype, folded, images, against, overwrite, progress)
        )


def _written(
    subject: Subject,
    spec: ExportSpec,
    program: Program,
    dtype: torch.dtype,
    folded: tuple[str, ...],
    images: Tensor | None,
    against: nn.Module | None,
    overwrite: bool,
    progress: Progress,
) -> Exported:
    target = Path(os.path.realpath(spec.output))
    sweep(target)
    folder = hidden_beside(target)
    try:
        folder.mkdir()
        progress("writing", 0, 1)
        made = write(program, spec, folder / target.name, subject.metadata())
        progress("comparing", 0, 1)
        beside = Beside(made.run, program, dtype, _photographs(subject, images))
        comparisons = beside.all_of(subject, every_size=spec.kind == "onnx")
        limit = spec.limit(_name(dtype))
        worst = max(comparisons, key=lambda one: one.error)
        if not worst.error <= limit:
            raise CheckError(
                f"{spec.output}: the exported model's output is off by {worst.error:.2g} on "
                f"{worst.what}, more than {limit:g}: nothing was written; --max-error allows more"
            )
        exported = Exported(
            path=Path(spec.output),
            format=spec.kind,
            dtype=_name(dtype),
            inputs=made.inputs,
            outputs=made.outputs,
            layers=made.layers,
            folded=folded,
            comparisons=comparisons,
            limit=limit,
            bytes=sum(one.stat().st_size for one in folder.iterdir()),
            opset=spec.version if spec.kind == "onnx" else None,
            notes=(*subject.notes, *made.notes),
            against=None if against is None else beside.photographs(against),
        )
        _move(folder, target, overwrite)
        return exported
    except OSError as error:
        reason = error.strerror or error
        raise DcnifyError(f"{spec.output} could not be written: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, target: Path, overwrite: bool) -> None:
    """Move the files to their place, the one that names the others last."""
    if target.exists() and not overwrite:
        raise FileExistsError(None, "it was written by someone else meanwhile")
    for one in sorted(folder.iterdir(), key=lambda one: one.name == target.name):
        sync(one)
        os.replace(one, target.with_name(one.name))
    sync(target.parent)


def _check_dtype(spec: ExportSpec, dtype: torch.dtype) -> None:
    if spec.kind == "onnx" and dtype not in (torch.float32, torch.float16):
        raise InputError(f"the weights are {_name(dtype)}, few runtimes know it: give --dtype fp32")


def _photographs(subject: Subject, images: Tensor | None) -> Tensor:
    size, count = subject.example.shape[1:], len(subject.example.images)
    if images is None:
        wanted = max(_PHOTOGRAPHS, count)
        known = subject.images.known()
        images = load_images(None, count=wanted, size=size, **known).tensor
    if not len(images):
        raise InputError("no images to compare on")
    repeats = -(-count // len(images))
    return images.repeat(repeats, 1, 1, 1) if repeats > 1 else images


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
