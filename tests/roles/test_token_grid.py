"""The grid of tokens at other sizes than the captured: who tells it, and what cannot."""

import pytest
import torch
from support.models import recipe
from support.token_grids import (
    SIZES,
    Attention,
    ByConvolution,
    converted,
    expected,
    grids,
    images,
    vit,
)
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.nn import TokenDCNv4


@pytest.mark.parametrize("how", ["rows, columns", "keywords", "pair"])
def test_the_grid_that_the_caller_passes_is_used(how):
    model = ByConvolution()
    model.how = how
    converted(model)
    for size in SIZES:
        assert grids(model, size) == expected(model, size)
    x = torch.randn(1, 32, 16)  # on its own, whatever image the model saw last
    given = {"pair": {"size": (2, 16)}}.get(how, {"height": 2, "width": 16})
    swapped = model.first
    rows = swapped.dcn(x.unflatten(1, (2, 16))).flatten(1, 2)
    assert torch.equal(swapped(x, **given), rows)


def test_of_a_square_the_names_of_the_arguments_say_which_are_rows():
    class Attends(Attention):
        def forward(self, x, W, H):
            return super().forward(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Conv2d(3, 16, 4, 4), Attends()

        def forward(self, x):
            x = self.patch(x)
            return self.attn(x.flatten(2).transpose(1, 2), x.shape[3], x.shape[2])

    model = Net().eval()
    square = images((32, 32))
    dcnify.convert(model, recipe("attention"), square, calibration=square)
    assert model.attn.call.grid == ("H", "W")


def test_a_class_token_stays_in_front_at_any_size():
    model = vit()
    converted(model)
    x = model.forward_features(images((64, 32)))
    assert x.shape == (1, 33, 24)
    assert grids(model, (64, 32)) == [(8, 4), (8, 4)]


def test_other_entries_of_the_model_know_the_size_too():
    model = vit()
    converted(model)
    before = model(images(SIZES[1]))
    model(images(SIZES[2]))
    assert torch.equal(model.forward_head(model.forward_features(images(SIZES[1]))), before)


def test_tokens_that_are_no_grid_of_the_image_are_an_error_of_one_line():
    model = vit()
    converted(model)
    model.norm_pre.register_forward_hook(lambda _m, _a, x: x[:, :17])  # 16 of 32: would be 4x4
    with pytest.raises(InputError, match=r"16 image tokens.*patch_embed\.proj is 4x8") as caught:
        model(images((32, 64)))
    assert "\n" not in str(caught.value)


def test_a_layer_that_knows_no_other_grid_refuses_other_counts():
    layer = TokenDCNv4(8, grid=(4, 4), groups=2)
    assert layer(torch.randn(1, 16, 8)).shape == (1, 16, 8)
    with pytest.raises(InputError, match="made for 4x4"):
        layer(torch.randn(1, 64, 8))


def test_a_failed_conversion_leaves_no_hook_behind():
    model = vit()
    impossible = recipe("attention", more="certify: {relative_error: 1.0e-9}\n")
    example = images(SIZES[0], 2)
    with pytest.raises(dcnify.CheckError):
        dcnify.convert(model, impossible, example, calibration=example)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_map_inside_a_layer_that_is_swapped_away_is_not_relied_on():
    class WithMap(nn.Module):
        """An attention whose output projection is a convolution over the map."""

        def __init__(self):
            super().__init__()
            self.attn, self.proj = Attention(), nn.Conv2d(16, 16, 1)

        def forward(self, x, height, width):
            y = self.attn(x).transpose(1, 2).unflatten(2, (height, width))
            return self.proj(y).flatten(2).transpose(1, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 4, 4)
            self.blocks = nn.ModuleList(WithMap() for _ in range(2))

        def forward(self, x):
            x = self.patch(x)
            h, w = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = x + block(x, h, w)
            return x.mean(1)

    model = Net()
    result = converted(model)
    rules = [swap.module.args["grid_from"]["module"] for swap in result.plan.swaps]
    assert rules == ["patch", "patch"]
    assert grids(model, (64, 32)) == [(16, 8), (16, 8)]
