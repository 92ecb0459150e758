"""The DCNv3 layer against its formula in float64, its keys, and life inside a model."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support.dcnv4_calls import relative_error
from torch import Tensor, nn
from torch.export import Dim

from dcnify.errors import InputError
from dcnify.nn import DCNv3
from dcnify.ops import reference

KEYS = {
    "dw_conv.0.weight",
    "dw_conv.0.bias",
    "dw_conv.1.1.weight",
    "dw_conv.1.1.bias",
    "offset.weight",
    "offset.bias",
    "mask.weight",
    "mask.bias",
    "input_proj.weight",
    "input_proj.bias",
    "output_proj.weight",
    "output_proj.bias",
}
GATE_KEYS = {"center_feature_scale_proj_weight", "center_feature_scale_proj_bias"}


def _lively(*args, **kwargs) -> DCNv3:
    """A layer with random parameters, since a fresh one looks at the same places everywhere."""
    torch.manual_seed(0)
    layer = DCNv3(*args, **kwargs)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def _pairs(how: dict) -> list[tuple[int, int]]:
    """kernel_size, stride, padding and dilation as (h, w)."""
    given = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1} | how
    both = [given[name] for name in ("kernel_size", "stride", "padding", "dilation")]
    return [(one, one) if isinstance(one, int) else one for one in both]


def _under_centers(maps: Tensor, how: dict, lead: tuple[int, int], margin: int) -> Tensor:
    """(B, C, Ho, Wo): of maps that begin ``margin`` before the image, the pixel of each query.

    Pixel (row, column) of ``maps`` belongs to the image's pixel (row + lead - margin, ...).
    """
    kernel, stride, padding, dilation = _pairs(how)
    for axis in (0, 1):
        extent = dilation[axis] * (kernel[axis] - 1)
        size = maps.shape[2 + axis] + 2 * lead[axis] - 2 * margin
        queries = torch.arange((size + 2 * padding[axis] - extent - 1) // stride[axis] + 1)
        places = extent // 2 - padding[axis] + queries * stride[axis]
        maps = maps.index_select(2 + axis, places + margin - lead[axis])
    return maps


def formula(weights: dict[str, Tensor], x: Tensor, **options) -> Tensor:
    """The layer by its published definition, a step at a time; no module of ours."""
    how = {k: options[k] for k in ("kernel_size", "stride", "padding", "dilation") if k in options}
    channels, groups, margin = x.shape[3], options["groups"], 16
    far = F.pad(x.permute(0, 3, 1, 2), (margin,) * 4)

    window = weights["dw_conv.0.weight"]
    dw = F.conv2d(far, window, weights["dw_conv.0.bias"], groups=channels)
    lead = tuple((side - 1) // 2 for side in window.shape[2:])
    branch = _under_centers(dw, how, lead, margin).permute(0, 2, 3, 1)
    mean, variance = branch.mean(-1, keepdim=True), branch.var(-1, correction=0, keepdim=True)
    branch = (branch - mean) / (variance + 1e-6).sqrt()
    branch = branch * weights["dw_conv.1.1.weight"] + weights["dw_conv.1.1.bias"]
    branch = branch * (1 + torch.erf(branch / 2**0.5)) / 2

    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    value = linear("input_proj", x)
    offset = linear("offset", branch).unflatten(-1, (groups, -1))
    mask = linear("mask", branch).unflatten(-1, (groups, -1)).softmax(-1)
    y = reference.dcnv4(
        value,
        torch.cat((offset, mask), dim=-1).flatten(-2),
        groups=groups,
        offset_scale=options.get("offset_scale", 1.0),
        remove_center=options.get("remove_center", False),
        **how,
    )
    if options.get("center_feature_scale"):
        gate = branch @ weights["center_feature_scale_proj_weight"].T
        gate = (gate + weights["center_feature_scale_proj_bias"]).sigmoid()
        gate = gate.repeat_interleave(channels // groups, dim=-1)
        centers = F.pad(value.permute(0, 3, 1, 2), (margin,) * 4)
        centers = _under_centers(centers, how, (0, 0), margin).permute(0, 2, 3, 1)
        y = y * (1 - gate) + centers * gate
    return linear("output_proj", y)


CASES = {
    "as InternImage has it": {"groups": 4},
    "as InternImage-L has it": {"groups": 2, "offset_scale": 2.0},
    "as InternImage-H has it": {"groups": 2, "dw_kernel_size": 5, "center_feature_scale": True},
    "strided": {"groups": 2, "stride": 2, "center_feature_scale": True},
    "dilated": {"groups": 4, "dilation": 2, "padding": 2},
    "strided, dilated, no padding": {"groups": 1, "stride": (1, 2), "dilation": (2, 1)}
    | {"padding": 0, "center_feature_scale": True},
    "without its centre": {"groups": 2, "remove_center": True, "offset_scale": 0.5},
    "uneven": {"groups": 4, "kernel_size": (5, 3), "padding": (3, 0), "stride": (2, 1)}
    | {"dw_kernel_size": (1, 5), "center_feature_scale": True},
    "even kernel": {"groups": 2, "kernel_size": 4, "padding": 2, "dw_kernel_size": 3},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("size", [(7, 9), (8, 5)], ids=["7x9", "8x5"])
def test_output_and_gradients_are_the_formulas(options, size):
    layer = _lively(8, **options)
    x = torch.randn(2, *size, 8)
    weights = {name: p.detach().double() for name, p in layer.named_parameters()}
    inputs = [one.requires_grad_() for one in (x.double(), *weights.values())]
    expected = formula(weights, inputs[0], **options)
    grad = torch.randn(expected.shape)
    expected_grads = torch.autograd.grad(expected, inputs, grad.double())

    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        twin = copy.deepcopy(layer).to(dtype)
        given = x.to(dtype).requires_grad_()
        y = twin(given)
        grads = torch.autograd.grad(y, (given, *twin.parameters()), grad.to(dtype))
        assert y.dtype == dtype
        assert y.shape[1:3] == twin.output_size(*size)
        assert relative_error(y, expected) < tolerance
        for name, one, other in zip(("x", *weights), grads, expected_grads, strict=True):
            assert relative_error(one, other) < tolerance, name


@pytest.mark.parametrize("gated", [False, True])
def test_state_dict_keys_and_shapes_are_the_originals(gated):
    layer = DCNv3(32, groups=4, dw_kernel_size=5, center_feature_scale=gated)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert set(shapes) == (KEYS | GATE_KEYS if gated else KEYS)
    assert shapes["dw_conv.0.weight"] == (32, 1, 5, 5)
    assert shapes["offset.weight"] == (72, 32)
    assert shapes["mask.weight"] == (36, 32)
    assert not gated or shapes["center_feature_scale_proj_weight"] == (4, 32)


def test_the_depthwise_kernel_is_by_default_as_large_as_the_kernel():
    assert DCNv3(16, kernel_size=(5, 3)).dw_conv[0].kernel_size == (5, 3)


def test_a_fresh_layer_averages_the_pixels_under_its_kernel():
    layer = DCNv3(16)
    x = torch.randn(1, 6, 7, 16)
    value = layer.input_proj(x).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(value, 3, stride=1, padding=1).permute(0, 2, 3, 1)
    assert relative_error(layer(x), layer.output_proj(mean)) < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, "16 channels do not divide into 5 groups.*nearest.* is 4$"),
        ({"dw_kernel_size": 0}, r"dw_kernel_size must be at least 1, not \(0, 0\)"),
        ({"dw_kernel_size": "3"}, r"dw_kernel_size is an int or an \(h, w\) pair"),
        ({"kernel_size": 4, "remove_center": True}, "remove_center needs an odd kernel"),
        ({"stride": (1, 2, 3)}, "stride is an int or an"),
        ({"offset_scale": float("nan")}, "offset_scale is a finite number"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_when_the_layer_is_made(options, message):
    with pytest.raises(InputError, match=message):
        DCNv3(16, **options)


def test_tokens_and_channels_first_images_are_refused_with_the_layout_in_words():
    for shape in ((2, 49, 16), (2, 16, 7, 7)):
        with pytest.raises(InputError, match=r"expected \(B, H, W, 16\), channels last"):
            DCNv3(16)(torch.zeros(shape))
    with pytest.raises(InputError, match="input is of type list"):
        DCNv3(16)([torch.zeros(1, 7, 7, 16)])


def test_an_image_smaller_than_the_kernel_is_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"spans 7x7 pixels, the image with padding .* only 4x6"):
        DCNv3(16, kernel_size=7, padding=0)(torch.zeros(1, 4, 6, 16))


@pytest.mark.parametrize("stride", [1, 2])
def test_it_exports_with_dynamic_sizes(stride):
    layer = _lively(16, stride=stride, dw_kernel_size=5, center_feature_scale=True).eval()
    x = torch.randn(2, 10, 11, 16)
    sizes = {0: Dim("batch"), 1: Dim("height", min=4), 2: Dim("width", min=4)}
    exported = torch.export.export(layer, (x,), dynamic_shapes=(sizes,)).module()
    for image in (x, torch.randn(3, 7, 12, 16)):
        torch.testing.assert_close(exported(image), layer(image))


def test_it_trains_in_bfloat16_and_under_autocast():
    x = torch.randn(2, 6, 6, 16)
    layer = _lively(16, dw_kernel_size=5, center_feature_scale=True)
    with torch.no_grad():
        expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(x)
    half = copy.deepcopy(layer).bfloat16()
    for model, y in ((layer, mixed), (half, half(x.bfloat16()))):
        assert y.dtype == torch.bfloat16
        assert relative_error(y, expected) < 0.05
        y.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_built_on_meta_it_takes_a_state_dict_and_is_the_same_layer():
    layer = _lively(16, stride=2, center_feature_scale=True)
    with torch.device("meta"):
        twin = DCNv3(16, stride=2, center_feature_scale=True)
    assert twin(torch.empty(2, 9, 8, 16, device="meta")).shape == (2, 5, 4, 16)
    twin.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(2, 9, 8, 16)
    assert torch.equal(twin(x), layer(x))


def test_its_repr_shows_what_it_was_made_of():
    text = repr(DCNv3(16, stride=(2, 1), remove_center=True))
    assert "16, kernel_size=(3, 3), stride=(2, 1)" in text
    assert "remove_center=True" in text
    assert "center_feature_scale=True" not in text
