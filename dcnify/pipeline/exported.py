"""An exported model as something to time."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dcnify.bench import ExportedModel, ModelBench
from dcnify.bench.timing import Timed
from dcnify.errors import DcnifyError, InputError
from dcnify.export.onnx.file import Session, parameters_of
from dcnify.graph.calls import evaluating, first_tensor
from dcnify.graph.example import Example
from dcnify.surgery.fidelity.measure import Agreement
from dcnify.words import first_line

_OTHER = 0.1
"""Relative error of the output from which a file is of another model; halves are far below."""


def exported_model(path: Path, model: nn.Module, bench: ModelBench) -> ExportedModel:
    """An ONNX file that ``model`` was exported to, in onnxruntime on the CPU.

    Raises:
        InputError: onnxruntime is missing, the models are timed elsewhere, the file does not load,
            takes other sizes, or computes something else than ``model``.
    """
    if find_spec("onnxruntime") is None:
        raise InputError("--onnx needs onnxruntime: pip install 'dcnify[export]'")
    if bench.device.type != "cpu":
        raise InputError(f"--onnx is timed on the CPU, the models on {bench.device}: --device cpu")
    try:
        session = Session(path, threads=bench.threads or torch.get_num_threads())
    except DcnifyError as error:
        raise InputError(f"{path}: {error}") from error

    def prepare(example: Example) -> Timed:
        call = session.prepared(_inputs(path, session, model, example))
        _check_same(path, session, model, example)
        return call

    return ExportedModel(path.name, parameters_of(path), prepare)


def _inputs(path: Path, session: Session, model: nn.Module, example: Example) -> list[Tensor]:
    called = example.called(model)
    bound = inspect.signature(called.forward).bind(*example.args, **example.kwargs)
    tensors = [one for one in tree_leaves(dict(bound.arguments)) if isinstance(one, Tensor)]
    shapes = session.shapes
    if len(tensors) != len(shapes):
        raise InputError(f"{path} takes {len(shapes)} inputs, the model {len(tensors)}")
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        for axis, (wanted, found) in enumerate(zip(shape, tensor.shape, strict=True)):
            if isinstance(wanted, int) and wanted != found:
                given = "x".join(map(str, tensor.shape))
                way_out = f"--batch {wanted}" if axis == 0 else "--input-size"
                raise InputError(
                    f"{path} takes {name} of {'x'.join(map(str, shape))}, not of {given}: give "
                    f"{way_out}, or export it with --dynamic"
                )
    return tensors


def _check_same(path: Path, session: Session, model: nn.Module, example: Example) -> None:
    sums = Agreement()
    try:
        found = session(*_inputs(path, session, model, example))
        with torch.no_grad(), evaluating(model):
            sums.add(first_tensor(example.call(model)), first_tensor(found))
    except InputError:
        raise
    except Exception as error:  # whatever a runtime may raise
        raise InputError(f"{path} does not run: {first_line(error)}") from error
    if not sums.relative_error <= _OTHER:
        raise InputError(
            f"{path} computes something else than the model (relative error "
            f"{sums.relative_error:.2g}): export it again"
        )
