"""DCNv3 in plain PyTorch, to compare with: nothing of dcnify's operator is in it."""

from __future__ import annotations

import copy
from types import MethodType

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.nn import DCNv3


def sampled(value: Tensor, offset: Tensor, mask: Tensor, groups: int, scale: float) -> Tensor:
    """DCNv3 with 3x3 points in plain PyTorch, softmax included (arXiv 2211.05778, Eq. 2).

    Groups become images of `F.grid_sample`, as in the original's own fallback.

    Args:
        value: (B, H, W, C).
        offset: (B, H, W, G·K·2), x before y; points count down the columns.
        mask: (B, H, W, G·K).
    """
    batch, height, width, channels = value.shape
    to = {"dtype": value.dtype, "device": value.device}
    rows, columns = torch.arange(height, **to), torch.arange(width, **to)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    cells = torch.tensor([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], **to)

    def by_group(one: Tensor, *points: int) -> Tensor:
        split = one.reshape(batch, height * width, groups, *points)
        return split.transpose(1, 2).flatten(0, 1)

    places = torch.stack((x, y), -1).view(-1, 1, 2) + (cells + by_group(offset, 9, 2)) * scale
    grid = (2 * places + 1) / torch.tensor((width, height), **to) - 1
    images = value.unflatten(-1, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    points = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    summed = (points * by_group(mask, 9).softmax(-1)[:, None]).sum(-1)
    return summed.view(batch, channels, height, width).permute(0, 2, 3, 1)


def plain_forward(layer: DCNv3, x: Tensor) -> Tensor:
    """A DCNv3 layer on `sampled`: nothing of dcnify's operator is in it."""
    conv, norm, act = layer.dw_conv
    seen = F.conv2d(
        x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding="same", groups=len(conv.weight)
    )
    seen = act(norm(seen.permute(0, 2, 3, 1)))
    value, scale = layer.input_proj(x), layer.sampling.offset_scale
    y = sampled(value, layer.offset(seen), layer.mask(seen), layer.groups, scale)
    if layer.center_feature_scale:
        gate = (layer.center_feature_scale_proj_weight, layer.center_feature_scale_proj_bias)
        share = F.linear(seen, *gate).sigmoid().repeat_interleave(layer.group_channels, -1)
        y = y * (1 - share) + value * share
    return layer.output_proj(y)


def in_plain_pytorch(model: nn.Module) -> nn.Module:
    """A copy whose DCNv3 layers run `plain_forward`."""
    model = copy.deepcopy(model)
    for layer in layers_of(model):
        layer.forward = MethodType(plain_forward, layer)
    return model


def layers_of(model: nn.Module) -> list[DCNv3]:
    return [module for module in model.modules() if isinstance(module, DCNv3)]


def randomised(name: str, **options: object) -> nn.Module:
    """That model with something in every parameter; fresh offsets, weights and gates are zero."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith(("gamma1", "gamma2")):
                parameter.uniform_(0.2, 0.8)
            elif parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            elif path.endswith(("offset.weight", "mask.weight", "scale_proj_weight")):
                parameter.normal_(std=1.5 / parameter.shape[1] ** 0.5)
    return model
