"""Calls of the operators, exported to ONNX and run in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnxscript import ir
from support.dcnv4_calls import relative_error, tensors
from torch import Tensor, nn

from dcnify.export.onnx.build import build
from dcnify.export.onnx.file import Session
from dcnify.export.program import Program, export_program
from dcnify.graph.example import Example
from dcnify.ops import dcnv3, dcnv4, reference
from dcnify.ops.sampling import Sampling


class OneCall(nn.Module):
    """A model that is one call of an operator."""

    def __init__(self, how: dict[str, Any], separate: bool) -> None:
        super().__init__()
        self.how, self.operator = how, dcnv3 if separate else dcnv4

    def forward(self, value: Tensor, *points: Tensor) -> Tensor:
        return self.operator(value, *points, **self.how)


def exported_error(
    how: dict[str, Any], given: dict[str, Any], form: str, *, separate: bool = False
) -> float:
    """Relative error in onnxruntime of one call, against the float64 reference."""
    value, packed, _ = tensors(**how, **given)
    points = split(packed, Sampling(**how)) if separate else (packed,)
    program = program_of(OneCall(how, separate), (value, *points))
    opset = 19 if form == "deform_conv" else 18
    model = build(program, form=form, opset=opset, metadata={})
    found = run(model, (value, *points))
    return relative_error(found[0], reference.dcnv4(value.double(), packed.double(), **how))


def split(packed: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Offsets and weights as DCNv3's two tensors."""
    groups, k = sampling.groups, sampling.num_points
    per_group = packed[..., : sampling.offset_mask_channels].unflatten(-1, (groups, 3 * k))
    offset, mask = per_group.split((2 * k, k), -1)
    return offset.flatten(-2).contiguous(), mask.flatten(-2).contiguous()


def program_of(model: nn.Module, args: Sequence[Tensor], dynamic: Sequence[str] = ()) -> Program:
    """The program of a module whose first argument stands for the image."""
    return export_program(model, Example(tuple(args), image=0), dynamic)


def run(model: ir.Model, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What onnxruntime makes of a model that ONNX's checker has passed."""
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    return Session(proto.SerializeToString())(*inputs)
