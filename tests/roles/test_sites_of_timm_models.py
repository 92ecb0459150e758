"""Sites of real model families, captured from the graph."""

from collections import Counter
from functools import cache

import pytest
import timm
import torch

from dcnify.graph import find_sites
from dcnify.sources.construct import on_meta

SHALLOW = (1, 1, 2, 1)
DEPTHWISE = {
    "convnext_tiny": (18, None),
    "mobilenetv3_large_100": (15, None),
    "efficientnet_b0": (16, None),
    "convformer_s18": (18, None),
    "edgenext_xx_small": (15, None),
    "davit_tiny": (20, SHALLOW),
}
"""How many each has, and the depths of its stages if not its own."""
ATTENTION = (
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
)


@cache
def sites_of(name: str, size: int | None = None, **options):
    model = on_meta(lambda: timm.create_model(name, **options))
    with torch.device("meta"):  # shapes are all that is looked at
        channels, height, width = model.pretrained_cfg["input_size"]
        return find_sites(model, torch.zeros(1, channels, size or height, size or width))


def roles(sites) -> dict[str, int]:
    return dict(Counter(site.role for site in sites))


@pytest.mark.slow
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_convolutions_are_found(name):
    count, depths = DEPTHWISE[name]
    sites = sites_of(name, depths=depths) if depths else sites_of(name)
    found = [site for site in sites if site.role == "depthwise_conv"]
    assert len(found) == count
    assert {site.role for site in sites} <= {"conv", "depthwise_conv"}
    assert all(site.kernel != (1, 1) for site in found)


def test_one_dimensional_kernels_are_told_apart():
    kernels = Counter(site.kernel for site in sites_of("inception_next_tiny", depths=SHALLOW))
    assert kernels == {(3, 3): 5, (1, 11): 5, (11, 1): 5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_found_with_its_class_token(name):
    sites = sites_of(name, depth=3)
    assert roles(sites) == {"attention": 3}
    assert {site.prefix_tokens for site in sites} == {1}
    height, width = sites[0].grid
    assert sites[0].input_shape == (1, 1 + height * width, sites[0].channels)


def test_register_tokens_count_as_prefix_tokens():
    sites = sites_of("vit_base_patch14_reg4_dinov2", depth=2)
    assert {(s.prefix_tokens, s.grid, s.heads) for s in sites} == {(5, (37, 37), 12)}


@pytest.mark.slow
def test_a_model_with_both_roles_has_both():
    sites = sites_of("caformer_s18")
    assert roles(sites) == {"conv": 3, "depthwise_conv": 6, "attention": 12}
    stages = [s.stage for s in sites if s.role != "conv"]
    assert stages == [0] * 3 + [1] * 3 + [2] * 9 + [3] * 3


def test_plain_convolutions_have_a_role_of_their_own():
    assert roles(sites_of("resnet50", layers=SHALLOW)) == {"conv": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("edgenext_xx_small", {}, "cross-covariance"),
        ("davit_tiny", {"depths": SHALLOW}, "cross-covariance"),
        ("cait_xxs24_224", {"depth": 3}, "class"),
    ],
)
def test_other_attentions_are_near_misses_with_the_reason(name, options, word):
    sites = sites_of(name, **options)
    reasons = [miss.reason for miss in sites.near_misses if miss.role == "attention"]
    assert any(word in reason for reason in reasons)
    if word == "cross-covariance":
        assert not [site for site in sites if site.role == "attention"]


@pytest.mark.slow
def test_masked_units_are_windows_until_pooling_has_restored_the_raster():
    """Hiera reorders its tokens by mask unit; only its last block sees rows and columns again."""
    sites = sites_of("hiera_tiny_224")
    assert [(s.path, s.grid) for s in sites] == [("blocks.11.attn", (7, 7))]


def test_attention_on_feature_maps_knows_its_layout():
    sites = [s for s in sites_of("test_coatnet") if s.role == "attention"]
    assert {s.layout for s in sites} == {"BCHW"}


def test_a_convolution_that_recomputes_its_padding_says_so():
    sites = sites_of("tf_efficientnet_lite0", 64)
    strided = [s for s in sites if s.stride == (2, 2)]
    assert {s.padding_policy for s in strided} == {"same"}


@pytest.mark.slow
def test_stages_follow_the_path_or_the_resolution():
    assert [s.stage for s in sites_of("convnext_tiny")] == [0] * 3 + [1] * 3 + [2] * 9 + [3] * 3
    mobile = sites_of("mobilenetv3_large_100")
    assert [s.stage for s in mobile] == sorted(s.stage for s in mobile)
    assert max(s.stage for s in mobile) == 4
