"""The layer: state-dict keys, arguments, and life inside a model."""

from __future__ import annotations

import copy

import pytest
import torch
from support.dcnv4_calls import relative_error
from support.lively_layer import lively
from torch import nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from dcnify.errors import InputError
from dcnify.nn import DCNv4

ALL_KEYS = {
    "offset_mask.weight",
    "offset_mask.bias",
    "offset_mask_dw.weight",
    "offset_mask_dw.bias",
    "value_proj.weight",
    "value_proj.bias",
    "output_proj.weight",
    "output_proj.bias",
    "center_feature_scale_proj_weight",
    "center_feature_scale_proj_bias",
}


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"dw_kernel_size": 3, "center_feature_scale": True}, ALL_KEYS),
        ({"dw_kernel_size": 3}, {k for k in ALL_KEYS if "center" not in k}),
        ({"output_bias": False}, {k for k in ALL_KEYS if k[:3] in ("off", "val", "out")}
         - {"offset_mask_dw.weight", "offset_mask_dw.bias", "output_proj.bias"}),
        ({"without_pointwise": True}, {"offset_mask.weight", "offset_mask.bias"}),
        ({"without_pointwise": True, "offset_rank": 2},
         {"offset_mask.weight", "offset_mask.bias", "offset_mask_down.weight"}),
    ],
)  # fmt: skip
def test_state_dict_keys_are_the_originals(options, keys):
    assert set(DCNv4(16, **options).state_dict()) == keys


@pytest.mark.parametrize(("groups", "rows"), [(4, 112), (5, 136), (7, 192), (8, 216), (10, 272)])
def test_the_projection_has_the_originals_number_of_rows(groups, rows):
    layer = DCNv4(16 * groups, groups=groups, dw_kernel_size=5, center_feature_scale=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes["offset_mask.weight"] == (rows, 16 * groups)
    assert shapes["offset_mask_dw.weight"] == (16 * groups, 1, 5, 5)
    assert shapes["center_feature_scale_proj_weight"] == (groups, 16 * groups)
    assert shapes["center_feature_scale_proj_bias"] == (groups,)


def test_a_fresh_layer_outputs_zero_like_the_original():
    layer = DCNv4(16, dw_kernel_size=3)
    assert (layer(torch.randn(2, 5, 6, 16)) == 0).all()
    assert (layer.output_proj.weight != 0).any()


def test_a_bottleneck_of_full_rank_computes_what_the_plain_layer_does():
    plain = lively(8, groups=2, stride=2, dw_kernel_size=3).double()
    layer = DCNv4(8, groups=2, stride=2, dw_kernel_size=3, offset_rank=8).double()
    missing, unexpected = layer.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (["offset_mask_down.weight"], [])
    nn.init.eye_(layer.offset_mask_down.weight)
    x = torch.randn(2, 7, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-12, atol=1e-12)


def test_a_bottleneck_predicts_from_the_product_of_its_two_weights():
    layer = lively(8, groups=2, offset_rank=3).double()
    plain = DCNv4(8, groups=2).double()
    state = layer.state_dict()
    state["offset_mask.weight"] = state["offset_mask.weight"] @ state.pop("offset_mask_down.weight")
    plain.load_state_dict(state)
    x = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("start", ["fresh", "static"])
def test_training_leaves_the_start_of_a_bottleneck_within_two_steps(start):
    torch.manual_seed(0)
    layer = DCNv4(8, groups=2, offset_rank=3)
    if start == "static":
        layer.set_static_points(torch.zeros(2, 9, 2), torch.full((2, 9), 1 / 9))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x, target = torch.randn(2, 2, 6, 7, 8)
    for _ in range(2):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    for name in ("offset_mask.weight", "offset_mask_down.weight"):
        assert layer.get_parameter(name).grad.abs().sum() > 0, name


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dw_kernel_size", [None, 3])
def test_at_the_same_size_nothing_is_copied(dw_kernel_size):
    layer = lively(16, dw_kernel_size=dw_kernel_size).eval()
    with torch.no_grad(), _Recorder() as recorder:
        layer(torch.randn(2, 6, 7, 16))
    copies = {"clone", "copy_", "_to_copy", "contiguous", "constant_pad_nd", "cat"}
    assert "dcnv4" in recorder.names
    assert not copies & set(recorder.names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, "16 channels do not divide into 5 groups.*nearest.* is 4$"),
        ({"dw_kernel_size": 0}, r"dw_kernel_size must be at least 1, not \(0, 0\)"),
        ({"kernel_size": 4, "remove_center": True}, "remove_center needs an odd kernel"),
        ({"stride": (1, 2, 3)}, "stride is an int or an"),
        ({"offset_rank": 0}, "offset_rank must be from 1 to 16, not 0"),
        ({"offset_rank": 17}, "offset_rank must be from 1 to 16, not 17"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_when_the_layer_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DCNv4(16, **options)


def test_tokens_and_channels_first_images_are_refused_with_the_layout_in_words():
    for shape in ((2, 49, 16), (2, 16, 7, 7)):
        with pytest.raises(InputError, match=r"expected \(B, H, W, 16\), channels last"):
            DCNv4(16)(torch.zeros(shape))


def test_an_image_smaller_than_the_kernel_is_refused_with_both_sizes():
    with pytest.raises(InputError, match=r"spans 7x7 pixels, the image with padding .* only 4x6"):
        DCNv4(16, kernel_size=7, padding=0)(torch.zeros(1, 4, 6, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"dw_kernel_size": 3, "center_feature_scale": True}, {"offset_rank": 4}],
    ids=["strided", "same size", "bottleneck"],
)
def test_it_exports_with_dynamic_sizes_and_compiles_whole(options):
    layer = lively(16, **options).eval()
    x = torch.randn(2, 10, 11, 16)
    sizes = {0: Dim("batch"), 1: Dim("height", min=4), 2: Dim("width", min=4)}
    exported = torch.export.export(layer, (x,), dynamic_shapes=(sizes,)).module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for image in (x, torch.randn(3, 7, 12, 16)):
        torch.testing.assert_close(exported(image), layer(image))
        torch.testing.assert_close(compiled(image), layer(image))


def test_it_trains_in_bfloat16_and_under_autocast():
    x = torch.randn(2, 6, 6, 16)
    layer = lively(16, dw_kernel_size=3, center_feature_scale=True)
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
    layer = lively(16, dw_kernel_size=3, stride=2, center_feature_scale=True)
    with torch.device("meta"):
        twin = DCNv4(16, dw_kernel_size=3, stride=2, center_feature_scale=True)
    assert twin(torch.empty(2, 9, 8, 16, device="meta")).shape == (2, 5, 4, 16)
    twin.load_state_dict(layer.state_dict(), assign=True)
    x = torch.randn(2, 9, 8, 16)
    assert torch.equal(twin(x), layer(x))


def test_its_repr_shows_what_it_was_made_of():
    text = repr(DCNv4(16, stride=(2, 1), softmax=True))
    assert "DCNv4(" in text
    assert "16, kernel_size=(3, 3), stride=(2, 1)" in text
    assert "softmax=True" in text


def test_projections_may_change_the_number_of_channels():
    layer = DCNv4(16, groups=4, in_channels=24, out_channels=8, dw_kernel_size=3, offset_rank=20)
    assert layer(torch.randn(2, 6, 5, 24)).shape == (2, 6, 5, 8)
    assert "in_channels=24, out_channels=8" in repr(layer)
    with pytest.raises(InputError, match="as many channels"):
        DCNv4(16, in_channels=24, without_pointwise=True)
    with pytest.raises(InputError, match=r"\(B, H, W, 24\)"):
        layer(torch.randn(2, 6, 5, 16))
