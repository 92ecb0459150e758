"""Symbolic tracing of converted models: as before, with our layers as leaves."""

import copy

import pytest
import torch
from support.models import SelfAttention, recipe, tiny_convnext, tiny_vit
from timm.models import create_feature_extractor as timm_extractor
from torch import fx, nn

import dcnify
from dcnify.errors import InputError
from dcnify.nn import DCNv4

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
CASES = {
    "depthwise_conv": (tiny_convnext, "stages.1"),
    "attention": (tiny_vit, "blocks.1"),
}


@pytest.fixture(scope="module", params=CASES)
def converted(request):
    build, node = CASES[request.param]
    original = build()
    model = copy.deepcopy(original)
    dcnify.convert(model, recipe(request.param), IMAGE, calibration=IMAGE)
    return original, model, node


def test_a_symbolic_trace_computes_the_same_with_our_layers_as_leaves(converted):
    _, model, _ = converted
    traced = fx.symbolic_trace(model)
    assert torch.allclose(traced(IMAGE), model(IMAGE), atol=1e-6)
    layers = {path for path, one in model.named_modules() if one.__class__.__name__[-5:] == "DCNv4"}
    called = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    assert {path for path in layers if not path.endswith(".dcn")} <= called


def test_feature_extractors_of_torchvision_and_timm_give_the_shapes_of_the_original(converted):
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    original, model, node = converted
    for extractor in (extraction.create_feature_extractor, timm_extractor):
        shapes = [extractor(one, {node: "a"})(IMAGE)["a"].shape for one in (original, model)]
        assert shapes[0] == shapes[1]


def test_gradients_pass_through_a_trace(converted):
    _, model, _ = converted
    traced = fx.symbolic_trace(copy.deepcopy(model).train())
    traced(IMAGE).sum().backward()
    layers = [one for one in traced.modules() if isinstance(one, DCNv4)]
    assert layers
    assert all(one.value_proj.weight.grad is not None for one in layers)


def test_scripting_is_refused_in_one_line(converted):
    _, model, _ = converted
    with pytest.raises(InputError, match=r"torch\.jit\.script cannot compile \w+DCNv4") as caught:
        torch.jit.script(model)
    assert "\n" not in str(caught.value)


def test_a_layer_is_traced_inside_another_module_and_refuses_to_be_traced_alone():
    layer = DCNv4(16)
    traced = fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()))
    x = torch.randn(1, 4, 4, 16)
    assert torch.equal(traced(x), layer(x).relu())
    with pytest.raises(InputError, match="DCNv4 cannot be traced alone"):
        fx.symbolic_trace(layer)


def test_a_traced_model_keeps_the_grid_of_each_image():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Conv2d(3, 16, 8, 8), SelfAttention()

        def forward(self, x):
            return self.attn(self.patch(x).flatten(2).transpose(1, 2)).mean(1)

    model, wide = Net().eval(), torch.randn(1, 3, 32, 64)
    dcnify.convert(model, recipe("attention"), wide, calibration=wide)
    traced = fx.symbolic_trace(model)
    seen = []
    model.attn.dcn.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1:3]))
    for size in ((32, 64), (64, 32)):
        traced(torch.randn(1, 3, *size))
    assert seen == [(4, 8), (8, 4)]
