"""An exported program as an ONNX model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import torch
from onnxscript import ir

from dcnify.errors import InputError
from dcnify.export.onnx.fold import fold_projections
from dcnify.export.onnx.translate import translations
from dcnify.export.program import AXES_OF_IMAGE, Program, in_names, inputs_of, output_names, quiet
from dcnify.words import first_line

_OPERATORS = {"deform_conv": "DeformConv", "grid_sample": "GridSample"}
_UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'")


def build(program: Program, *, form: str, opset: int, metadata: Mapping[str, str]) -> ir.Model:
    """Translate a program.

    Args:
        program: the model.
        form: of our operators: ``deform_conv`` or ``grid_sample``.
        opset: version of ONNX's operators.
        metadata: entries of the file, by key.

    Raises:
        InputError: an operator of the model has no translation.
    """
    try:
        with quiet():
            made = torch.onnx.export(
                program.exported,
                dynamo=True,
                custom_translation_table=translations(form),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # whatever the translation of an operator may raise
        raise InputError(f"the model cannot be written as ONNX: {_why(error)}") from error
    assert made is not None  # a program comes back from dynamo=True
    model = fold_projections(made.model)
    if model.opset_imports.get("") != opset:
        found = model.opset_imports.get("")
        raise InputError(f"--opset {opset}: the model needs operators of version {found}")
    _name_axes(model, program)
    _name_outputs(model, program)
    _forget_sources(model)
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return model


def layers_of(model: ir.Model, form: str) -> dict[str, int]:
    """How many operators of ours there are, by ONNX's name for them."""
    found = Counter(node.op_type for node in model.graph)
    name = _OPERATORS[form]
    return {name: found[name]} if found[name] else {}


def shapes_of(values: object) -> dict[str, tuple[int | str, ...]]:
    """Shapes by name of a graph's inputs or outputs."""
    return {
        value.name: tuple(one if isinstance(one, int) else str(one) for one in value.shape or ())
        for value in values  # type: ignore[attr-defined]  # a sequence of ir.Value
    }


def _name_axes(model: ir.Model, program: Program) -> None:
    """Call axes of any size ``batch``, ``height`` and ``width`` in inputs and outputs."""
    names: dict[str, str] = {}
    images = model.graph.inputs[_image_position(program)]
    for axis in program.dynamic:
        dim = images.shape[AXES_OF_IMAGE[axis]] if images.shape is not None else None
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            names[dim.value] = axis
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(
            one if isinstance(one, int) else in_names(str(one), names) for one in value.shape or ()
        )


def _name_outputs(model: ir.Model, program: Program) -> None:
    """Call outputs by their keys or fields instead of by what computes them."""
    taken = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for value, name in zip(model.graph.outputs, output_names(program), strict=True):
        if value.name not in taken and name not in taken:
            value.name = name
            taken.add(name)


def _image_position(program: Program) -> int:
    images = program.example.images
    tensors = inputs_of(program, program.example)
    return next(index for index, one in enumerate(tensors) if one is images)


def _forget_sources(model: ir.Model) -> None:
    """Drop what names the exporting machine's files: every node holds the stack that made it."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None


def _why(error: Exception) -> str:
    cause: BaseException = error
    while not (found := _UNSUPPORTED.search(str(cause))):
        if cause.__cause__ is None:
            return first_line(cause)
        cause = cause.__cause__
    return f"it uses the operator {found[1]}, which has no translation"
