"""The checker finds what TensorRT's parser would refuse or misread."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

import dcnify
from dcnify.export import tensorrt_problems

SHAPES = {"x": (1, 4, 8, 8), "w": (4, 1, 3, 3), "offset": (1, 18, 8, 8), "mask": (1, 9, 8, 8)}


def _model(inputs=("x", "w", "offset", "", "mask"), types=None, **changed):
    attributes = {
        **{"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]},
        **{"dilations": [1, 1], "group": 4, "offset_group": 1, **changed},
    }
    types = types or {}
    given = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), SHAPES[name])
        for name in SHAPES
    ]
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 8, 8))
    node = helper.make_node("DeformConv", list(inputs), ["y"], **attributes)
    graph = helper.make_graph([node], "g", given, [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def test_what_we_write_is_right():
    assert tensorrt_problems(_model()) == []


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("no mask", {"inputs": ("x", "w", "offset")}),
        ("float16, float32", {"types": {"mask": TensorProto.FLOAT16}}),
        ("pads", {"pads": [0, 0, 1, 1]}),
        ("'offset_groups'", {"offset_groups": 1}),
    ],
)
def test_each_fault_is_found(problem, change):
    found = tensorrt_problems(_model(**change))
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_exported_model_has_none(converted, tmp_path, dtype):
    done = dcnify.export(converted, tmp_path / "m.onnx", dtype=dtype, dynamic="batch")
    assert done.notes == ()
    assert tensorrt_problems(onnx.load(tmp_path / "m.onnx")) == []
