"""What TensorRT's ONNX parser needs of a graph, checked without TensorRT.

The rules are of its parser since 10.1 (onnx-tensorrt, ``importDeformConv``) and of issues there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ATTRIBUTES = {
    "DeformConv": {"dilations", "group", "kernel_shape", "offset_group", "pads", "strides"},
    "GridSample": {"align_corners", "mode", "padding_mode"},
}
_FLOATS = {1: "float32", 10: "float16"}  # onnx.TensorProto's numbers


def tensorrt_problems(model: Any) -> list[str]:
    """Return what TensorRT's parser would refuse or misread in ``model``, a line each.

    Args:
        model: an `onnx.ModelProto`.
    """
    import onnx

    shaped = onnx.shape_inference.infer_shapes(model)
    types = {one.name: one.data_type for one in shaped.graph.initializer}
    for one in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output):
        types[one.name] = one.type.tensor_type.elem_type
    problems: dict[str, int] = {}
    for node in shaped.graph.node:
        for problem in _problems_of(node, types):
            problems[problem] = problems.get(problem, 0) + 1
    return [f"{problem} ({count} of them)" for problem, count in problems.items()]


def _problems_of(node: Any, types: dict[str, int]) -> Iterator[str]:
    known = _ATTRIBUTES.get(node.op_type)
    if known is None:
        return
    for attribute in node.attribute:
        if attribute.name not in known:  # it would fall back to its default, in silence
            yield f"{node.op_type} has an unknown attribute {attribute.name!r}"
    if node.op_type == "GridSample":
        yield (
            "GridSample may give wrong numbers in TensorRT without an error (TensorRT issue 4813): "
            "use --form deform_conv"
        )
        return
    inputs = [*node.input, "", "", "", "", ""][:5]
    if not inputs[4]:  # its parser then makes a mask of the shape of the offsets
        yield "DeformConv has no mask"
    kinds = {types.get(name, 0) for name in inputs if name}
    if len(kinds) != 1 or not kinds <= _FLOATS.keys():
        shown = ", ".join(sorted(_FLOATS.get(kind, f"type {kind}") for kind in kinds))
        yield f"DeformConv has inputs of {shown}; expected all float32 or all float16"
    attributes = {one.name: list(one.ints) or one.i for one in node.attribute}
    pads: Any = attributes.get("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        yield f"DeformConv has pads {pads} that differ between sides"
