"""What timm's own tests ask of its models, asked of all our variants at a tiny size."""

from __future__ import annotations

import pytest
import timm
import torch
from support.tiny_intern_image import (
    CLIP,
    NAMES,
    UNLIKE_EACH_OTHER,
    ceil_div,
    lively,
    relative_error,
    tiny,
)
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch.export import Dim

from dcnify.errors import InputError

every_variant = pytest.mark.parametrize("name", NAMES)
some_variants = pytest.mark.parametrize("name", UNLIKE_EACH_OTHER)


@every_variant
@torch.no_grad()
def test_it_takes_images_of_any_size(name):
    model = lively(name)
    for size in ((64, 96), (80, 112), (50, 83), (33, 65), (32, 32), (5, 7)):
        logits = model(torch.randn(2, 3, *size))
        assert logits.shape == (2, 1000)
        assert logits.isfinite().all()


@every_variant
def test_every_parameter_of_a_fresh_model_has_a_finite_gradient(name, images):
    model = tiny(name, num_classes=42).train()
    logits = model(images)
    assert logits.shape == (2, 42)
    logits.square().mean().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path


@every_variant
def test_every_parameter_takes_part(name, images):
    model = lively(name, num_classes=5)
    model(images).square().mean().backward()
    # A number that is added to all keys alike changes no attention.
    idle = ("clip_projector.cross_dcn.k_bias", "clip_projector.norm1_k.0.bias")
    for path, parameter in model.named_parameters():
        assert path in idle or parameter.grad.any(), path


@every_variant
@torch.no_grad()
def test_the_default_config_describes_the_model(name):
    model = tiny(name).eval()
    config, state_dict = model.default_cfg, model.state_dict()
    assert f"{config['first_conv']}.weight" in state_dict
    assert f"{config['classifier']}.weight" in state_dict
    assert model.get_classifier() is model.get_submodule(config["classifier"])
    assert config["architecture"] == name
    features = model.forward_features(torch.randn(1, *config["input_size"]))
    assert features.shape == (1, model.num_features, *config["pool_size"])


@every_variant
@torch.no_grad()
def test_features_and_head_together_are_the_forward(name, images):
    model = lively(name)
    features = model.forward_features(images)
    by = 16 if name in CLIP else 32
    assert features.shape == (2, model.num_features, ceil_div(64, by), ceil_div(96, by))
    assert torch.equal(model.forward_head(features), model(images))
    before = model.forward_head(features, pre_logits=True)
    assert before.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(before), model(images))


@every_variant
@torch.no_grad()
def test_the_classifier_is_replaced_removed_and_unpooled(name, images):
    model = lively(name)
    features = model.forward_features(images)
    before = model.forward_head(features, pre_logits=True)

    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model.get_classifier().in_features == model.head_hidden_size
    assert model(images).shape == (2, 7)

    model.reset_classifier(0)
    assert torch.equal(model(images), before)

    model.reset_classifier(0, "")
    unpooled = model(images)
    assert unpooled.shape[2:] == features.shape[2:]
    model.reset_classifier(7, "")
    assert model(images).shape == (2, 7, *features.shape[2:])

    made_so = tiny(name, num_classes=0, global_pool="").eval()
    assert made_so(images).shape == unpooled.shape
    made_so.reset_classifier(7, "attn" if name in CLIP else "avg")
    assert made_so(images).shape == (2, 7)


def test_a_new_classifier_stays_in_dtype_and_mode_and_the_rest_as_it_was():
    model = tiny("intern_image_t").double().eval()
    rest = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("head.")}
    model.reset_classifier(3)
    assert model.head.weight.dtype == torch.float64
    assert not model.head.training
    assert all(torch.equal(model.state_dict()[key], value) for key, value in rest.items())


@torch.no_grad()
def test_pools_of_timms_are_taken_and_those_that_do_not_fit_refused(images):
    highest = lively("flash_intern_image_t", global_pool="max")
    features = highest.conv_head(highest.forward_features(images))
    pooled = highest.forward_head(highest.forward_features(images), pre_logits=True)
    assert torch.equal(pooled, features.amax((2, 3)))
    with pytest.raises(InputError, match="'catavgmax' changes the width of the classifier"):
        tiny("intern_image_t", global_pool="catavgmax")
    with pytest.raises(InputError, match="pools by attention: global_pool 'avg' is not 'attn'"):
        tiny("intern_image_h").reset_classifier(5, "avg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core_op": "dcnv5"}, "core_op is 'dcnv3' or 'dcnv4', not 'dcnv5'"),
        ({"depths": (1, 1)}, r"depths \(1, 1\) and groups \(1, 2, 4, 8\) differ in length"),
        ({"groups": (3, 2, 4, 8)}, "16 channels do not divide into 3 groups"),
        ({"layer_scale": 1.0, "res_post_norm": True}, "do not go together"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(options, message):
    with pytest.raises(InputError, match=message):
        tiny("intern_image_t", **options)


@every_variant
def test_layers_are_numbered_by_depth_with_the_way_down_in_the_next_level(name):
    model = tiny(name)
    layer = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layer) == {path for path, _ in model.named_parameters()}
    first_of_level, deepest, head = (1, 2, 3, 5), 5, 6
    for path, number in layer.items():
        where = path.split(".")
        if where[0] == "patch_embed":
            expected = 0
        elif where[0] != "levels":
            expected = head
        elif where[2] == "blocks":
            expected = first_of_level[int(where[1])] + int(where[3])
        elif where[2] == "post_norms":  # of blocks 0 and 1
            expected = first_of_level[2] + int(where[3])
        else:  # norm, downsample
            expected = [*first_of_level[1:], deepest][int(where[1])]
        assert number == expected, path


def test_post_norms_are_as_deep_as_the_blocks_before_them():
    model = tiny("intern_image_h", depths=(1, 1, 6, 1), post_norm_block_ids=(2, 5))
    layer = group_parameters(model, model.group_matcher(), reverse=True)
    for k, block in enumerate((2, 5)):
        behind = layer[f"levels.2.post_norms.{k}.0.weight"]
        assert behind == layer[f"levels.2.blocks.{block}.norm1.0.weight"] == 3 + block


@every_variant
def test_learning_rates_fall_evenly_towards_the_stem_and_scales_take_no_decay(name):
    model = tiny(name)
    groups = param_groups_layer_decay(
        model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    scale, decay = {}, {}
    for group in groups:
        scale |= {id(p): group["lr_scale"] for p in group["params"]}
        decay |= {id(p): group["weight_decay"] for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(scale) == len(named)
    assert sorted(set(scale.values())) == [0.5**i for i in range(6, -1, -1)]
    assert scale[id(model.head.weight)] == 1
    assert scale[id(model.patch_embed.conv1.weight)] == 0.5**6

    assert model.no_weight_decay() <= set(named)
    endings = ("gamma1", "gamma2", "center_feature_scale_proj_bias")
    assert model.no_weight_decay() == {path for path in named if path.endswith(endings)}
    assert all(decay[id(named[path])] == 0 for path in model.no_weight_decay())
    assert decay[id(model.head.weight)] == 0.05


@every_variant
def test_coarse_groups_are_the_stem_the_levels_and_the_head(name):
    model = tiny(name)
    layer = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert layer["patch_embed.conv2.weight"] == 0
    assert [layer[f"levels.{i}.blocks.0.mlp.fc1.weight"] for i in range(4)] == [1, 2, 3, 4]
    assert layer["head.weight"] == 5


@some_variants
def test_checkpointed_blocks_run_twice_for_the_same_gradients(name, images):
    model = lively(name, drop_path_rate=0.3, num_classes=5).train()
    ran = []
    model.levels[2].blocks[1].register_forward_pre_hook(lambda *_: ran.append(1))
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        logits = model(images)
        logits.square().mean().backward()
        results.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    assert len(ran) == 3
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(again, plain)


@some_variants
def test_stochastic_depth_grows_evenly_and_rests_in_evaluation(name, images):
    model = lively(name, drop_path_rate=0.4)
    blocks = [block for level in model.levels for block in level.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    same = lively(name)
    with torch.no_grad():
        assert torch.equal(model(images), same(images))
        model.train()
        assert not torch.equal(model(images), model(images))


def test_dropout_of_the_head_works_in_training_only(images):
    model = lively("intern_image_t", drop_rate=0.5, num_classes=0)
    with torch.no_grad():
        assert model(images).ne(0).all()
        model.train()
        share = model(images).eq(0).float().mean()
    assert 0.4 < share < 0.6


@every_variant
@torch.no_grad()
def test_images_may_have_one_channel(name):
    model = tiny(name, in_chans=1)
    assert model.in_chans == 1
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 1000)


@every_variant
@torch.no_grad()
def test_bfloat16_stays_close_to_float64(name, images):
    model = lively(name, num_classes=20)
    half = model.bfloat16()(images.bfloat16())
    expected = model.double()(images.bfloat16().double())
    assert half.dtype == torch.bfloat16
    assert relative_error(half, expected) < 0.1


@every_variant
@torch.no_grad()
def test_float32_is_float64_rounded(name, images):
    model = lively(name)
    logits = model(images)
    assert relative_error(logits, model.double()(images.double())) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "multiple"),
    [
        ("flash_intern_image_s", {}, 1),
        # That 2·ceil(n / 2) is at least n, where the head joins two levels, export cannot prove.
        ("intern_image_g", {"depths": (1, 1, 1, 1), "post_norm_block_ids": (0,)}, 32),
    ],
)
def test_it_exports_with_a_dynamic_batch_and_size(name, options, multiple):
    model = lively(name, num_classes=5, **options)
    sides = [multiple * Dim(side, min=2) for side in ("rows", "columns")]
    if multiple == 1:
        sides = [Dim("height", min=64), Dim("width", min=64)]
    sizes = {0: Dim("batch"), 2: sides[0], 3: sides[1]}
    example = torch.randn(2, 3, 96, 128)
    exported = torch.export.export(model, (example,), dynamic_shapes=(sizes,)).module()
    others = ((83, 150), (112, 80)) if multiple == 1 else ((64, 160),)
    with torch.no_grad():
        for size in ((96, 128), *others):
            images = torch.randn(3, 3, *size)
            torch.testing.assert_close(exported(images), model(images))


def test_timm_lists_the_variants_and_which_have_weights():
    assert set(timm.list_models("*intern_image*", module="intern_image")) == set(NAMES)
    with_weights = {name.split(".")[0] for name in timm.list_pretrained("*intern_image*")}
    assert with_weights == set(NAMES)
