"""How much of a kernel a DCNv4 layer can hold, of trained kernels and of random ones."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor, nn

from dcnify.inherit.block_terms import decompose

SIZES = ((1, 16), (1, 8), (1, 4), (2, 16), (2, 8), (3, 8))
"""Channels that are sampled, times the fewer of input and output; channels to a group."""


def print_errors(model: nn.Module) -> None:
    """Print mean relative errors over the 3x3 kernels of a network's blocks."""
    kernels = [
        one.weight.detach().double().flatten(2)
        for path, one in model.named_modules()
        if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3) and "resnets" in path
    ]
    print("| sampled channels | channels to a group | trained kernels | random kernels |")
    print("|---|---|---|---|")
    for times, width in SIZES:
        trained = statistics.mean(_error(one, times, width) for one in kernels)
        make = torch.Generator().manual_seed(0)
        noise = (torch.randn(one.shape, generator=make).double() for one in kernels)
        random = statistics.mean(_error(one, times, width) for one in noise)
        print(f"| x{times} | {width} | {trained:.0%} | {random:.0%} |".replace("%", " %"))


def _error(kernel: Tensor, times: int, width: int) -> float:
    groups = times * min(kernel.shape[:2]) // width
    terms = decompose(kernel, groups, width, torch.Generator().manual_seed(0))
    return terms.left(kernel) ** 0.5
