"""The order and the scale of offsets are moved into the layer that makes them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from support.dcnv4_calls import relative_error
from support.onnx_calls import program_of, run
from torch import nn

from dcnify.export.onnx.build import build
from dcnify.nn import DCNv3, DCNv4
from dcnify.ops import dcnv4

LAYERS = {
    "plain": lambda: DCNv4(16, groups=2),
    "scaled": lambda: DCNv4(16, groups=2, offset_scale=0.5, remove_center=True),
    "bottleneck": lambda: DCNv4(16, groups=4, offset_rank=3, dw_kernel_size=3),
    "without projections": lambda: DCNv4(16, groups=4, without_pointwise=True, softmax=True),
    "dcnv3": lambda: DCNv3(16, groups=2, center_feature_scale=True),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    made = LAYERS[request.param]().eval()
    for name, parameter in made.named_parameters():
        if name.startswith(("offset", "mask")):
            nn.init.normal_(parameter, std=0.3)
    return made


def test_no_numbers_are_gathered_at_run_time(layer):
    x = torch.randn(2, 9, 11, 16)
    model = build(program_of(layer, [x]), form="deform_conv", opset=19, metadata={})
    with torch.no_grad():
        assert relative_error(run(model, [x])[0], layer(x)) < 1e-5
    assert Counter(node.op_type for node in model.graph)["Gather"] == 0


def test_a_scale_is_no_step_of_its_own():
    torch.manual_seed(0)
    steps = {}
    for scale in (1.0, 0.5):
        layer = DCNv4(16, groups=2, offset_scale=scale).eval()
        program = program_of(layer, [torch.randn(1, 8, 8, 16)])
        model = build(program, form="deform_conv", opset=19, metadata={})
        steps[scale] = Counter(node.op_type for node in model.graph)
    assert steps[1.0] == steps[0.5]
    assert steps[0.5]["Mul"] == 0


def test_points_that_no_linear_layer_makes_are_gathered():
    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = DCNv4(8, groups=1).eval()
            nn.init.normal_(self.layer.offset_mask.weight)

        def forward(self, x):
            return dcnv4(x, self.layer.offset_mask(x) ** 2, groups=1)

    x, squared = torch.randn(1, 8, 8, 8), Squared()
    model = build(program_of(squared, [x]), form="deform_conv", opset=19, metadata={})
    assert Counter(node.op_type for node in model.graph)["Gather"] == 2
    with torch.no_grad():
        assert relative_error(run(model, [x])[0], squared(x)) < 1e-5
