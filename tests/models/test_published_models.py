"""Names, sizes and state-dict keys as published, and published files through timm's own loading."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from support.tiny_intern_image import NAMES, lively, relative_error, tiny

PUBLISHED_MILLIONS = {
    "intern_image_t": 30,
    "intern_image_s": 50,
    "intern_image_b": 97,
    "intern_image_l": 223,
    "intern_image_xl": 335,
    "intern_image_h": 1080,
    "intern_image_g": 3000,
    "flash_intern_image_t": 30,
    "flash_intern_image_s": 50,
    "flash_intern_image_b": 97,
    "flash_intern_image_l": 223,
}
LAST_DIGIT = {"intern_image_h": 10, "intern_image_g": 1000}
"""1.08 B and 3 B, both rounded down; the others to the nearest million."""

DEPTHS = {
    "t": (4, 4, 18, 4),
    "s": (4, 4, 21, 4),
    "b": (4, 4, 21, 4),
    "l": (5, 5, 22, 5),
    "xl": (5, 5, 24, 5),
    "h": (6, 6, 32, 6),
    "g": (2, 2, 48, 4),
}


def published_keys(name: str) -> set[str]:
    """What a published file holds, written down from its layout and not from our modules."""
    size, flash = name.rpartition("_")[2], name.startswith("flash")
    both = []  # names of modules with a weight and a bias
    single = []  # whole keys
    both += ["patch_embed.conv1", "patch_embed.norm1.1", "patch_embed.conv2", "patch_embed.norm2.1"]
    for i, depth in enumerate(DEPTHS[size]):
        level = f"levels.{i}"
        for block in (f"{level}.blocks.{j}" for j in range(depth)):
            both += [f"{block}.norm1.0", f"{block}.norm2.0", f"{block}.mlp.fc1"]
            last_linears = [f"{block}.mlp.fc2", f"{block}.dcn.output_proj"]
            if flash and size != "l":
                single += [f"{one}.weight" for one in last_linears]
            else:
                both += last_linears
            layers = ("dw_conv.0", "dw_conv.1.1", "offset", "mask", "input_proj")
            if flash:
                layers = ("offset_mask", "value_proj")
                layers += () if size == "t" else ("offset_mask_dw",)
            both += [f"{block}.dcn.{layer}" for layer in layers]
            if size in ("s", "b", "l", "xl"):
                single += [f"{block}.gamma1", f"{block}.gamma2"]
            if size in ("h", "g"):
                gate = f"{block}.dcn.center_feature_scale_proj"
                single += [f"{gate}_weight", f"{gate}_bias"]
            if size == "h":
                both += [f"{block}.res_post_norm1.0", f"{block}.res_post_norm2.0"]
        if i < 3:
            single += [f"{level}.downsample.conv.weight"]
            both += [f"{level}.downsample.norm.1"]
        if size in ("t", "h", "g"):
            both += [f"{level}.norm.0"]
    both += [f"levels.2.post_norms.{k}.0" for k in range({"h": 5, "g": 8}.get(size, 0))]
    both += ["head"]
    if size in ("h", "g"):
        pool = "clip_projector"
        both += ["dcnv3_head_x4.0", "dcnv3_head_x3", "fc_norm.0", f"{pool}.cross_dcn.proj"]
        both += [f"{pool}.norm1_{part}.0" for part in "qkv"]
        single += [f"{pool}.cross_dcn.{part}.weight" for part in "qkv"]
        single += [f"{pool}.cross_dcn.{part}_bias" for part in "qkv"]
    else:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        single += ["conv_head.0.weight", *(f"conv_head.1.0.{one}" for one in statistics)]
        both += ["conv_head.1.0"]
    return {f"{one}.{kind}" for one in both for kind in ("weight", "bias")} | set(single)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_sized_model_has_the_published_keys_and_number_of_parameters(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert set(model.state_dict()) == published_keys(name)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    digit = LAST_DIGIT.get(name)
    rounded = round(millions) if digit is None else math.floor(millions / digit) * digit
    assert rounded == PUBLISHED_MILLIONS[name]


# What no key and no count tells: groups of the first level, offset scale, depthwise kernel, whether
# norms come after the layers, start of the layer scale.
SAMPLING = {
    "intern_image_t": (4, 1.0, 3, False, None),
    "intern_image_s": (5, 1.0, 3, True, 1e-5),
    "intern_image_b": (7, 1.0, 3, True, 1e-5),
    "intern_image_l": (10, 2.0, 3, True, 1e-5),
    "intern_image_xl": (12, 2.0, 3, True, 1e-5),
    "intern_image_h": (10, 1.0, 5, False, None),
    "intern_image_g": (16, 1.0, 5, True, None),
    "flash_intern_image_t": (4, 1.0, None, False, None),
    "flash_intern_image_s": (5, 1.0, 3, True, 1e-5),
    "flash_intern_image_b": (7, 0.5, 3, True, 1e-5),
    "flash_intern_image_l": (10, 2.0, 3, True, 1e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_layers_sample_and_normalise_as_published(name):
    narrow = {"channels": 16 * SAMPLING[name][0], "depths": (1, 1, 2, 1)}
    narrow |= {"post_norm_block_ids": (1,)} if name[-1] in "hg" else {}
    with torch.device("meta"):
        model = timm.create_model(name, **narrow)
    groups, scale, window, norms_after, gamma = SAMPLING[name]
    for i, level in enumerate(model.levels):
        for block in level.blocks:
            how = block.dcn.sampling
            assert (how.groups, how.offset_scale) == (groups * 2**i, scale)
            assert (how.kernel_size, how.padding) == ((3, 3), (1, 1))
            assert (how.remove_center, how.softmax) == (False, not name.startswith("flash"))
            assert block.dcn.dw_kernel_size == (window and (window, window))
            assert block.post_norm is norms_after
    start = tiny(name).levels[0].blocks[0].gamma1
    assert (start is None) == (gamma is None)
    assert start is None or start.detach().eq(torch.tensor(gamma)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("intern_image_h", (5, 11, 17, 23, 29)),
        ("intern_image_g", (5, 11, 17, 23, 29, 35, 41, 47)),
    ],
)
def test_the_third_level_is_normed_behind_the_published_blocks(name, blocks):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert [level.normed_after for level in model.levels] == [(), (), blocks, ()]


# Repository, file, side of the image, classes.
FILES = {
    "intern_image_t.ogvl_in1k": ("InternImage", "internimage_t_1k_224", 224, 1000),
    "intern_image_s.ogvl_in1k": ("InternImage", "internimage_s_1k_224", 224, 1000),
    "intern_image_b.ogvl_in1k": ("InternImage", "internimage_b_1k_224", 224, 1000),
    "intern_image_l.ogvl_in22k_ft_in1k_384": (
        ("InternImage", "internimage_l_22kto1k_384", 384, 1000)
    ),
    "intern_image_l.ogvl_in22k_384": ("InternImage", "internimage_l_22k_192to384", 384, 21841),
    "intern_image_xl.ogvl_in22k_ft_in1k_384": (
        ("InternImage", "internimage_xl_22kto1k_384", 384, 1000)
    ),
    "intern_image_xl.ogvl_in22k_384": ("InternImage", "internimage_xl_22k_192to384", 384, 21841),
    "intern_image_h.ogvl_in22k_ft_in1k_640": (
        ("InternImage", "internimage_h_22kto1k_640", 640, 1000)
    ),
    "intern_image_h.ogvl_in22k_384": ("InternImage", "internimage_h_jointto22k_384", 384, 21841),
    "intern_image_g.ogvl_in22k_ft_in1k_512": (
        ("InternImage", "internimage_g_22kto1k_512", 512, 1000)
    ),
    "intern_image_g.ogvl_in22k_384": ("InternImage", "internimage_g_pretrainto22k_384", 384, 21841),
    "flash_intern_image_t.ogvl_in1k": ("DCNv4", "flash_intern_image_t_1k_224", 224, 1000),
    "flash_intern_image_s.ogvl_in1k": ("DCNv4", "flash_intern_image_s_1k_224", 224, 1000),
    "flash_intern_image_b.ogvl_in1k": ("DCNv4", "flash_intern_image_b_1k_224", 224, 1000),
    "flash_intern_image_l.ogvl_in22k_ft_in1k_384": (
        ("DCNv4", "flash_intern_image_l_22kto1k_384", 384, 1000)
    ),
}


def test_every_tag_says_where_its_weights_lie():
    found = {}
    for tag in timm.list_pretrained("*intern_image*"):
        config = timm.get_pretrained_cfg(tag)
        owner, repository = config.hf_hub_id.split("/")
        file, ending = config.hf_hub_filename.split(".")
        channels, height, width = config.input_size
        assert (owner, ending, channels, height) == ("OpenGVLab", "pth", 3, width)
        found[tag] = (repository, file, width, config.num_classes)
    assert found == FILES


@pytest.fixture
def hub(monkeypatch):
    """Have timm's download hand out ``hub.file``, and note what it was asked for."""

    class Hub:
        file = None
        asked = None

    def download(*asked, **kwargs):
        Hub.asked = asked
        return Hub.file

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    return Hub


def as_ported(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the Hugging Face port."""
    for ours, theirs in (("gamma1", "layer_scale1"), ("gamma2", "layer_scale2")):
        state_dict = {path.replace(ours, theirs): one for path, one in state_dict.items()}
    return {f"model.{path}": one for path, one in state_dict.items()}


FORMS = {
    "published": lambda weights: {"model": weights, "epoch": 299},
    "averaged": lambda weights: {"model_ema": weights},
    "bare": lambda weights: weights,
    "ported": as_ported,
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["intern_image_s", "intern_image_h", "flash_intern_image_t"])
def test_pretrained_goes_through_timm_to_the_published_file(hub, name, form):
    trained = lively(name)
    hub.file = form(trained.state_dict())
    model = tiny(name, pretrained=True)
    config = timm.get_pretrained_cfg(name)
    assert hub.asked == (config.hf_hub_id, config.hf_hub_filename)
    weights = model.state_dict()
    assert all(torch.equal(weights[path], one) for path, one in trained.state_dict().items())


@pytest.mark.parametrize("name", ["intern_image_h", "flash_intern_image_t"])
def test_another_number_of_classes_keeps_all_but_the_classifier(hub, name):
    trained = lively(name).state_dict()
    hub.file = {"model": trained}
    weights = tiny(name, pretrained=True, num_classes=7).state_dict()
    assert weights["head.weight"].shape[0] == 7
    same = {path for path in trained if not path.startswith("head.")}
    assert all(torch.equal(weights[path], trained[path]) for path in same)


@pytest.mark.parametrize("name", ["intern_image_t", "intern_image_h", "flash_intern_image_b"])
@torch.no_grad()
def test_feature_maps_and_pooled_features_are_the_trained_ones(hub, name):
    trained, images = lively(name), torch.randn(1, 3, 64, 64)
    hub.file = {"model": trained.state_dict()}
    maps = tiny(name, pretrained=True, features_only=True, out_indices=(1, 3)).eval()(images)
    expected = trained.forward_intermediates(images, [1, 3], intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
    pooled = tiny(name, pretrained=True, num_classes=0).eval()(images)
    features = trained.forward_features(images)
    assert torch.equal(pooled, trained.forward_head(features, pre_logits=True))


@torch.no_grad()
def test_grey_images_see_the_sum_of_the_trained_filters(hub):
    trained = lively("flash_intern_image_t")
    hub.file = {"model": trained.state_dict()}
    model = tiny("flash_intern_image_t", pretrained=True, in_chans=1).eval()
    grey = torch.randn(1, 1, 64, 64)
    assert relative_error(model(grey), trained(grey.expand(1, 3, 64, 64))) < 1e-5


def test_a_tag_of_the_larger_data_set_has_its_classes(hub):
    tag = "intern_image_l.ogvl_in22k_384"
    trained = lively(tag)
    assert trained.num_classes == trained.head.out_features == 21841
    hub.file = {"model": trained.state_dict()}
    model = tiny(tag, pretrained=True)
    assert hub.asked == ("OpenGVLab/InternImage", "internimage_l_22k_192to384.pth")
    assert torch.equal(model.head.weight, trained.head.weight)


def test_a_file_of_another_variant_is_refused(hub):
    hub.file = {"model": lively("intern_image_t").state_dict()}
    with pytest.raises(RuntimeError, match="offset_mask"):
        tiny("flash_intern_image_t", pretrained=True)
