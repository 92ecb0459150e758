"""Layers that are deformable already, and the queries of decoders, are listed as what they are."""

from __future__ import annotations

import pytest
import torch
from support import models
from torch import nn
from torch.nn.functional import grid_sample

import dcnify

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Sampled(nn.Module):
    """Deformable attention of one level: softmax weights of values where the queries point."""

    def __init__(self, channels: int = 8, points: int = 4):
        super().__init__()
        self.points = points
        self.offsets = nn.Conv2d(channels, 2 * points, 1)
        self.weights = nn.Conv2d(channels, points, 1)

    def forward(self, x):
        weights = self.weights(x).softmax(1)
        batch, _, rows, columns = x.shape
        where = self.offsets(x).tanh().view(batch, self.points, 2, rows, columns)
        taken = [
            grid_sample(x, where[:, i].permute(0, 2, 3, 1), align_corners=False)
            for i in range(self.points)
        ]
        return sum(taken[i] * weights[:, i : i + 1] for i in range(self.points))


class Net(nn.Module):
    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.stem, self.mixer = nn.Conv2d(3, 8, 1), mixer

    def forward(self, x):
        x = self.stem(x)
        return x + self.mixer(x)


class Deformed(nn.Module):
    """DCNv2 as torchvision has it."""

    def __init__(self):
        super().__init__()
        from torchvision.ops import DeformConv2d

        self.offsets, self.conv = nn.Conv2d(8, 18, 1), DeformConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x, self.offsets(x))


@pytest.mark.parametrize(
    ("mixer", "path", "role", "words"),
    [
        (Sampled(), "mixer", "attention", "deformable attention"),
        (Deformed(), "mixer.conv", "conv", "deformable already"),
    ],
)
def test_a_deformable_layer_is_one_near_miss(mixer, path, role, words):
    (miss,) = dcnify.find_sites(Net(mixer), IMAGE).near_misses
    assert (miss.path, miss.role) == (path, role)
    assert words in miss.reason


def test_points_that_do_not_depend_on_the_image_in_a_map_that_does_are_listed_too():
    class Shifted(nn.Module):
        def forward(self, x):
            grid = torch.zeros(1, 4, 4, 2)
            return grid_sample(x, grid, align_corners=False)

    class Last(Net):
        def forward(self, x):
            return self.mixer(self.stem(x))

    (miss,) = dcnify.find_sites(Last(Shifted()), IMAGE).near_misses
    assert miss.path == "mixer"


def test_a_converted_layer_is_none():
    model = models.tiny_convnext()
    image = torch.randn(1, 3, 64, 64)
    dcnify.convert(model, models.recipe("depthwise_conv"), image)
    found = dcnify.find_sites(model, image)
    assert not found.near_misses


@pytest.mark.slow
def test_the_layers_of_mask2former_are_told_apart():
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        SwinConfig,
    )

    stages = {"depths": [1] * 4, "num_heads": [1, 2, 2, 2], "embed_dim": 16, "window_size": 4}
    backbone = SwinConfig(
        image_size=64, out_features=["stage1", "stage2", "stage3", "stage4"], **stages
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=10,
        dim_feedforward=32,
        encoder_feedforward_dim=32,
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    found = dcnify.find_sites(model, {"pixel_values": torch.randn(1, 3, 64, 64)})
    reasons = {miss.path.split(".", 2)[-1]: miss.reason for miss in found.near_misses}
    assert "deformable attention" in reasons["decoder.encoder.layers.0.self_attn"]
    assert "10 queries are not the image's" in reasons["decoder.layers.0.cross_attn"]
    assert "those of a decoder" in reasons["decoder.layers.0.self_attn"]
    assert {site.role for site in found} == {"window_attention", "conv"}
