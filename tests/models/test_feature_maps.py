"""Maps by `features_only`, `forward_intermediates` and pruning, as timm's own tests ask them."""

from __future__ import annotations

import pytest
import torch
from support.tiny_intern_image import (
    CHANNELS,
    NAMES,
    REDUCTIONS,
    UNLIKE_EACH_OTHER,
    ceil_div,
    lively,
    tiny,
)

from dcnify.errors import InputError

every_variant = pytest.mark.parametrize("name", NAMES)
some_variants = pytest.mark.parametrize("name", UNLIKE_EACH_OTHER)


@every_variant
@torch.no_grad()
def test_features_only_puts_out_four_maps(name):
    model = lively(name, features_only=True)
    assert model.feature_info.channels() == CHANNELS
    assert model.feature_info.reduction() == REDUCTIONS
    for height, width in ((64, 96), (50, 83)):
        maps = model(torch.randn(2, 3, height, width))
        assert [tuple(one.shape) for one in maps] == [
            (2, channels, ceil_div(height, by), ceil_div(width, by))
            for channels, by in zip(CHANNELS, REDUCTIONS, strict=True)
        ]
        assert all(one.isfinite().all() for one in maps)


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 3), (0, 2), (0,), (-1,), (-3, -2)])
def test_features_only_computes_what_is_asked_for_and_holds_nothing_else(name, indices, images):
    whole = lively(name)
    model = tiny(name, features_only=True, out_indices=indices).eval()
    own = {f"model.{path}": value for path, value in whole.state_dict().items()}
    model.load_state_dict({path: own[path] for path in model.state_dict()})
    maps = model(images)

    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)
    assert all(torch.equal(one, expected[i]) for one, i in zip(maps, indices, strict=True))
    assert model.feature_info.channels() == [CHANNELS[i] for i in indices]
    assert model.feature_info.reduction() == [REDUCTIONS[i] for i in indices]

    sum(one.square().mean() for one in maps).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    deepest = max(i % 4 for i in indices)
    assert len(model.model.levels) == deepest + 1
    assert not [path for path in model.state_dict() if "head" in path or "clip" in path]


@every_variant
@torch.no_grad()
def test_intermediates_are_the_maps_on_the_way_to_the_features(name, images):
    model = lively(name)
    features, maps = model.forward_intermediates(images)
    assert torch.equal(features, model.forward_features(images))
    assert [one.shape[1] for one in maps] == CHANNELS
    alone = model.forward_intermediates(images, indices=2, intermediates_only=True)
    assert [torch.equal(one, two) for one, two in zip(alone, maps[2:], strict=True)] == [True] * 2
    last_first = model.forward_intermediates(images, indices=[0, -1], output_fmt="NHWC")[1]
    assert torch.equal(last_first[0].permute(0, 3, 1, 2), maps[0])
    assert torch.equal(last_first[1].permute(0, 3, 1, 2), maps[3])
    with pytest.raises(InputError, match="'NCHW' or 'NHWC', not 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


@some_variants
@torch.no_grad()
def test_stopping_early_leaves_out_the_levels_behind_the_last_map_wanted(name, images):
    model = lively(name)
    ran = []
    for number, level in enumerate(model.levels):
        level.register_forward_hook(lambda *_, number=number: ran.append(number))
        if level.downsample is not None:
            level.downsample.register_forward_hook(lambda *_, number=number: ran.append("down"))
    whole = model.forward_intermediates(images, indices=[1], intermediates_only=True)
    assert ran == [0, "down", 1, "down", 2, "down", 3]
    ran.clear()
    early = model.forward_intermediates(images, [1], stop_early=True, intermediates_only=True)
    assert ran == [0, "down", 1]
    assert torch.equal(early[0], whole[0])


@every_variant
@torch.no_grad()
def test_pruning_keeps_the_maps_and_says_their_numbers(name, images):
    model = lively(name)
    expected = model.forward_intermediates(images, intermediates_only=True)
    before = sum(parameter.numel() for parameter in model.parameters())
    assert model.prune_intermediate_layers([-4, 2]) == [0, 2]
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    maps = model.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
    assert torch.equal(maps[0], expected[0])
    assert torch.equal(maps[1], expected[2])
    assert torch.equal(model(images), expected[2])
    assert model.num_features == model.head_hidden_size == CHANNELS[2]


@torch.no_grad()
def test_pruning_may_leave_a_head_that_still_fits(images):
    model = lively("intern_image_h")
    logits = model(images)
    model.prune_intermediate_layers([1, 3], prune_head=False)
    assert torch.equal(model(images), logits)


def test_features_only_exports():
    model = lively("flash_intern_image_t", features_only=True)
    images = torch.randn(1, 3, 64, 96)
    maps = torch.export.export(model, (images,)).module()(images)
    for exported, expected in zip(maps, model(images), strict=True):
        torch.testing.assert_close(exported, expected)
