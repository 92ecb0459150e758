"""Write an exported program in one of the formats, and load what was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dcnify.export import package
from dcnify.export.program import (
    AXES_OF_IMAGE,
    Program,
    input_names,
    inputs_of,
    output_shapes,
    smallest_sizes,
)
from dcnify.export.spec import ExportSpec

Shapes = dict[str, tuple[int | str, ...]]


@dataclass(frozen=True)
class Written:
    """A file that was written and loaded again."""

    run: Callable[..., Sequence[Tensor]]
    """The exported model: its inputs in order to its outputs in order."""
    inputs: Shapes
    outputs: Shapes
    layers: dict[str, int]
    notes: tuple[str, ...] = ()


def write(program: Program, spec: ExportSpec, path: Path, metadata: Mapping[str, str]) -> Written:
    """Write ``path``, perhaps with a file of weights beside it, and load it.

    Raises:
        InputError: an operator of the model is not known in the format.
        DcnifyError: the file is not valid, or does not load.
    """
    if spec.kind == "onnx":
        return _write_onnx(program, spec, path, metadata)
    if spec.kind == "pt2":
        package.write_program(program, path, metadata)
    else:
        package.write_compiled(program, path)
    tensors = inputs_of(program, program.example)
    names = input_names(program)
    inputs = {name: _shape(one, program) for name, one in zip(names, tensors, strict=True)}
    run = package.load(path, spec.kind, program)
    least = [f"{axis} from {size}" for axis, size in smallest_sizes(program).items()]
    notes = (f"the program takes {' and '.join(least)} pixels on",) if least else ()
    return Written(run, inputs, output_shapes(program), {}, notes)


def _write_onnx(
    program: Program, spec: ExportSpec, path: Path, metadata: Mapping[str, str]
) -> Written:
    import onnx

    from dcnify.export.onnx import build, file
    from dcnify.export.onnx.tensorrt import tensorrt_problems

    model = build.build(program, form=spec.form, opset=spec.version, metadata=metadata)
    file.write(model, path)
    problems = tensorrt_problems(onnx.load(path, load_external_data=False))
    return Written(
        file.Session(path),
        build.shapes_of(model.graph.inputs),
        build.shapes_of(model.graph.outputs),
        build.layers_of(model, spec.form),
        tuple(f"TensorRT: {problem}" for problem in problems),
    )


def _shape(tensor: Tensor, program: Program) -> tuple[int | str, ...]:
    if tensor is not program.example.images:
        return tuple(tensor.shape)
    axes = {AXES_OF_IMAGE[axis]: axis for axis in program.dynamic}
    return tuple(axes.get(axis, size) for axis, size in enumerate(tensor.shape))
