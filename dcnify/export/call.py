"""`dcnify.export`: an export from Python, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dcnify.export.result import Exported
from dcnify.export.run import run
from dcnify.export.spec import ExportSpec
from dcnify.export.subject import open_subject, subject_of
from dcnify.progress import Progress, silent
from dcnify.sources.spec import SourceSpec


def export(
    model: Any,
    output: str | os.PathLike[str],
    example: Any = None,
    *,
    format: str | None = None,
    opset: int | None = None,
    form: str = "deform_conv",
    dynamic: str | Sequence[str] = (),
    dtype: str | None = None,
    fold_static: bool = False,
    max_error: float | None = None,
    images: Tensor | None = None,
    against: nn.Module | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Export a model as ONNX or in PyTorch's own formats, and compare what was written with it.

    Args:
        model: a module, the result of `dcnify.convert`, or the path of an artifact, or another
            source as the command line names it.
        output: the file: ``model.onnx`` or ``model.pt2``.
        example: how a module is called (see `dcnify.Example`), where nothing else says.
        format: ``onnx``, ``pt2`` or ``aoti``; by default what the file's ending says.
        opset: version of ONNX's operators; the lowest that the form allows by default.
        form: what the new layers become in ONNX: ``deform_conv`` or ``grid_sample``.
        dynamic: axes of the image of any size: ``batch``, ``height``, ``width``.
        dtype: ``fp32`` or ``fp16``; that of the weights by default.
        fold_static: write layers whose points do not depend on the image as depthwise convolutions.
        max_error: largest relative error of the output; 1e-4 by default, 2e-2 for ``fp16``.
        images: (N, C, H, W), normalised, to compare on; photographs by default.
        against: the model before its conversion, to compare with as well.
        overwrite: replace a file that is there.
        trust_code: import the code that an artifact names.
        progress: progress callback.

    Raises:
        InputError: something given is wrong, or the model cannot be exported in this way.
        CheckError: the exported model's output is off by more than ``max_error``; nothing is
            written.
        DcnifyError: the exported model does not run, or could not be written.
    """
    spec = ExportSpec(
        output=Path(output),
        format=format,
        opset=opset,
        form=form,
        dynamic=(dynamic,) if isinstance(dynamic, str) else tuple(dynamic),
        dtype=dtype,
        fold_static=fold_static,
        max_error=max_error,
    )
    spec.check(overwrite)
    if isinstance(model, str | os.PathLike):
        source = SourceSpec(os.fspath(model), trust_code=trust_code)
        source.check()
        subject = open_subject(source, progress)
    else:
        subject = subject_of(model, example)
    return run(
        subject, spec, images=images, against=against, overwrite=overwrite, progress=progress
    )
