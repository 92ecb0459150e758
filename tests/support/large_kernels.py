"""Blocks of RepLKNet and SLaK, by their papers: large kernels beside small ones, each normed."""

from __future__ import annotations

import torch
from torch import nn


def conv_bn(channels: int, kernel: tuple[int, int], groups: int) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(channels, channels, kernel, padding=padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class LargeKernel(nn.Module):
    """RepLKNet (arXiv 2203.06717): a large kernel and a 5x5, which `merge_kernel` puts into one."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.large = conv_bn(channels, (kernel, kernel), channels)
        self.small = conv_bn(channels, (5, 5), channels)

    def forward(self, x):
        return self.large(x) + (self.small(x) if hasattr(self, "small") else 0)

    def merge_kernel(self):
        kernel, bias = _folded(self.large)
        small, more = _folded(self.small)
        border = (kernel.shape[-1] - 5) // 2
        kernel = kernel + nn.functional.pad(small, [border] * 4)
        channels, size = len(kernel), kernel.shape[-1]
        self.large = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
        self.large.weight.data, self.large.bias.data = kernel, bias + more
        del self.small


class Strips(nn.Module):
    """SLaK (arXiv 2207.03620): two strips and a 5x5."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.LoRA1 = conv_bn(channels, (kernel, 5), channels)
        self.LoRA2 = conv_bn(channels, (5, kernel), channels)
        self.small = conv_bn(channels, (5, 5), channels)

    def forward(self, x):
        return self.LoRA1(x) + self.LoRA2(x) + self.small(x)


class Block(nn.Module):
    def __init__(self, channels: int, mixer: nn.Module):
        super().__init__()
        self.before, self.after = conv_bn(channels, (1, 1), 1), conv_bn(channels, (1, 1), 1)
        self.mixer = mixer

    def forward(self, x):
        return x + self.after(self.mixer(self.before(x).relu()).relu())


class LargeKernelNet(nn.Module):
    def __init__(self, kind: type[nn.Module] = LargeKernel, kernel: int = 31, channels: int = 16):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 2, 2)
        self.blocks = nn.Sequential(*(Block(channels, kind(channels, kernel)) for _ in range(2)))
        self.head = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                module.running_mean.normal_(0, 0.3)
        self.eval()

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _folded(branch: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    conv, norm = branch
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    kernel = conv.weight * gain[:, None, None, None]
    return kernel.detach(), (norm.bias - norm.running_mean * gain).detach()
