"""Attention in windows: found from the map to the map, whatever stands between."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
from support.windows import Around, WindowAttention
from timm.models import vision_transformer_sam as sam
from timm.models.davit import SpatialBlock
from timm.models.maxxvit import PartitionAttentionCl
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from timm.models.tiny_vit import TinyVitBlock
from timm.models.twins import LocallyGroupedAttn
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

import dcnify

IMAGE = torch.randn(2, 3, 16, 24)
ROLE = "window_attention"


def windows(model, images=IMAGE):
    return [site for site in dcnify.find_sites(model, images) if site.role == ROLE]


def missed(model, images=IMAGE):
    sites = dcnify.find_sites(model, images)
    assert not [site for site in sites if site.role in (ROLE, "attention")]
    return [miss.reason for miss in sites.near_misses if miss.role == ROLE]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shift", [0, 2])
def test_a_module_from_map_to_map_is_a_site(shift, fused):
    (site,) = windows(Around(WindowAttention(shift=shift, fused=fused)))
    assert (site.path, site.layout, site.grid) == ("mixer", "BHWC", (16, 24))
    assert (site.heads, site.window, site.dilation) == (2, (4, 4), (1, 1))


def test_a_padded_map_is_a_site_of_its_own_size():
    (site,) = windows(Around(WindowAttention(window=5, shift=2)))
    assert (site.input_shape, site.window) == ((2, 16, 24, 16), (5, 5))


def test_places_from_all_over_the_map_are_a_dilated_window():
    (site,) = windows(Around(WindowAttention(spread=True)))
    assert (site.window, site.dilation) == ((4, 4), (4, 6))


def test_a_window_that_holds_the_whole_map_is_one_too():
    (site,) = windows(Around(WindowAttention(window=4)), torch.randn(1, 3, 4, 4))
    assert (site.window, site.grid) == ((4, 4), (4, 4))


@pytest.mark.parametrize("back", [0, 1, -2])
def test_a_map_that_is_not_shifted_back_is_no_site(back):
    (reason,) = missed(Around(WindowAttention(shift=2, back=back)))
    assert "not in the place" in reason


class Rolled(WindowAttention):
    """Attends over the whole map, which is rolled."""

    def forward(self, x):
        y = x.roll((3, 3), (1, 2)).flatten(1, 2)
        q, k, v = self.qkv(y).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(y).view(x.shape)


def test_a_whole_map_that_stays_rolled_is_no_site_of_either_role():
    (reason,) = missed(Around(Rolled()))
    assert "not in the place" in reason


class Shrinking(nn.Module):
    """A map of the window's size, halved on the way to a window that it is padded to again."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 1), nn.LayerNorm(16)
        self.down, self.attn = nn.Conv2d(16, 16, 2, stride=2), WindowAttention(window=8)
        self.register_buffer("rows", torch.arange(4))

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.down(x).permute(0, 2, 3, 1)
        y = F.pad(x, (0, 0, 0, 4, 0, 4)).view(-1, 1, 8, 1, 8, 16).permute(0, 1, 3, 2, 4, 5)
        y = self.attn.attend(y.reshape(-1, 64, 16)).view(-1, 8, 8, 16)
        return x + y[:, self.rows][:, :, self.rows]


def test_a_map_of_another_layer_is_not_taken_for_that_before_the_windows():
    (reason,) = missed(Shrinking(), torch.randn(1, 3, 8, 8))
    assert "not put back" in reason


class Masked(WindowAttention):
    """Of which some places do not see some others: ``mask`` (places, places) is True where seen."""

    def __init__(self, mask, **options):
        super().__init__(**options)
        self.register_buffer("mask", mask)

    def attend(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        return self.proj(y.transpose(1, 2).flatten(2))


def test_a_mask_that_divides_windows_into_parts_is_a_part_of_the_shift():
    part = torch.arange(16) // 8
    assert len(windows(Around(Masked(part == part[:, None])))) == 1


def test_a_causal_mask_is_not():
    (reason,) = missed(Around(Masked(torch.ones(16, 16).tril().bool())))
    assert "masked or causal" in reason


class Halo(WindowAttention):
    """Whose keys are those of the next window, too."""

    def attend(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k, v = (torch.cat([one, one.roll(1, 0)], 2) for one in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


def test_keys_from_beyond_the_window_are_said():
    (reason,) = missed(Around(Halo()))
    assert "16 queries and 32 keys" in reason


class Stays(WindowAttention):
    """Two layers between the cut into windows and the way back."""

    def attend(self, x):
        y = x + super().attend(x)
        return y + super().attend(y)


def test_layers_that_stay_in_windows_are_near_misses():
    model = Around(Stays())
    sites = dcnify.find_sites(model, IMAGE)
    assert not sites.sites
    assert {miss.role for miss in sites.near_misses} == {ROLE}
    assert "24 windows of 16 tokens" in sites.near_misses[0].reason


SWIN = {"img_size": (32, 48), "window_size": 4, "embed_dim": 16, "depths": (2, 2)}
KINDS = {
    "swin": (SwinTransformerBlock, {**SWIN, "num_heads": (1, 2)}, "swin_tiny_patch4_window7_224"),
    "swinv2": (SwinTransformerV2Block, {**SWIN, "num_heads": (1, 2)}, "swinv2_tiny_window8_256"),
    "twins": (
        LocallyGroupedAttn,
        {"img_size": 224, "embed_dims": (32, 64, 128, 256), "depths": (2, 2, 2, 2)},
        "twins_svt_small",
    ),
    "maxvit": (PartitionAttentionCl, {"img_size": 64}, "test_maxvit"),
    "swinv2_cr": (
        SwinTransformerV2CrBlock,
        {**SWIN, "num_heads": (1, 2)},
        "swinv2_cr_tiny_224",
    ),
    "davit": (
        SpatialBlock,
        {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 64), "num_heads": (1, 2, 4, 4)},
        "davit_tiny",
    ),
    "sam": (
        sam.Block,
        {"img_size": 448, "depth": 2, "embed_dim": 48, "num_heads": 3, "global_attn_indexes": ()},
        "samvit_base_patch16_224",
    ),
    "tiny_vit": (
        TinyVitBlock,
        {
            "depths": (1, 2, 1, 1),
            "embed_dims": (16, 32, 32, 64),
            "num_heads": (1, 2, 2, 4),
        },
        "tiny_vit_5m_224",
    ),
}
PADDED = {"tiny_vit": 272, "davit": 112}
"""Sizes at which all maps are padded, where others are a window as a whole."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_of_timms_windowed_families_is_a_site(kind):
    block, options, name = KINDS[kind]
    model = timm.create_model(name, **options)
    size = options.get("img_size", PADDED.get(kind, 224))
    images = torch.randn(1, 3, *(size if isinstance(size, tuple) else (size, size)))
    count = sum(isinstance(module, block) for module in model.modules())
    found = windows(model, images)
    assert len(found) == count > 0
    assert all(site.window != site.grid or site.stage > 0 for site in found)


SMALL = {"embed_dim": 16, "depths": [2, 2, 2], "num_heads": [1, 2, 2]}
HUGGING_FACE = {
    "Swin": SMALL,
    "Swinv2": {**SMALL, "image_size": 256, "window_size": 8},
    "DonutSwin": SMALL,
    "MaskFormerSwin": SMALL,
    "VitDet": {
        "hidden_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "image_size": 256,
        "window_size": 7,
        "window_block_indices": [0, 1, 2, 3, 4, 5],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (256, 288)])
@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_every_layer_of_hugging_faces_windows_is_a_site(kind, size):
    model = getattr(transformers, f"{kind}Model")
    config = getattr(transformers, f"{kind}Config")(**HUGGING_FACE[kind])
    found = windows(model(config), torch.randn(1, 3, *size))
    assert len(found) == 6


@pytest.mark.slow
@pytest.mark.parametrize("version", ["", "_v2"])
def test_every_layer_of_torchvisions_is_a_site(version):
    kind = ShiftedWindowAttentionV2 if version else ShiftedWindowAttention
    block = {"block": torchvision.models.swin_transformer.SwinTransformerBlockV2} if version else {}
    model = torchvision.models.SwinTransformer(
        [4, 4], 16, [2, 2], [1, 2], [4, 4], num_classes=3, **block
    )
    paths = {path for path, module in model.named_modules() if isinstance(module, kind)}
    found = windows(model, torch.randn(1, 3, 40, 48))
    assert {site.path for site in found} == paths
    assert [site.grid for site in found] == [(10, 12)] * 2 + [(5, 6)] * 2
