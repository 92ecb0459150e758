"""A trial: values wider than the layer, so that every channel can be seen by two groups.

The value projection makes `EXPAND` times as many channels as the layer has, in as many times the
groups, and the output projection brings them back. A recipe's ``group_channels: 16`` then has the
offsets of 8 channels a group in an ordinary layer, and twice the projections.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dcnify.inherit import channel_grouping as cluster
from dcnify.inherit.channel_grouping import Shared, reseat
from dcnify.nn import DCNv4, DepthwiseDCNv4, depthwise
from dcnify.roles.depthwise_conv import fit as fit_depthwise

EXPAND = 2


class Expanded(DCNv4):
    """`DCNv4` with ``EXPAND`` times the ``groups`` given, each as wide as it would be without."""

    def __init__(self, channels: int, *, groups: int, **options: Any) -> None:
        super().__init__(channels, groups=EXPAND * groups, **options)
        wide = EXPAND * channels
        self.value_proj = nn.Linear(channels, wide)
        self.output_proj = nn.Linear(wide, channels, bias=self.output_bias)
        self.reset_parameters()

    @property
    def group_channels(self) -> int:
        return EXPAND * self.channels // self.groups


@contextmanager
def expanded() -> Iterator[None]:
    """Depthwise convolutions become `Expanded` layers, and ``fit`` makes use of all their seats."""
    patches = (
        (depthwise, "DCNv4", Expanded),
        (cluster, "reseat", _reseat),
        (fit_depthwise, "reseat", _reseat),
        (fit_depthwise, "_left_by_transfer", lambda *_: math.inf),
        (fit_depthwise, "_write", _write),
    )
    with ExitStack() as stack:
        for where, name, value in patches:
            stack.enter_context(mock.patch.object(where, name, value))
        yield


def _reseat(kernels: Tensor, shared: Shared, *, reshape: bool = False) -> Shared:
    """Let ``EXPAND`` times as many channels use each shape: as if there were kernels of zeros."""
    kernels, gains = (_taller(one) for one in (kernels, shared.gains))
    seated = reseat(kernels, Shared(shared.shapes, gains), reshape=reshape)
    return Shared(seated.shapes, seated.gains[: len(kernels) // EXPAND])


def _taller(rows: Tensor) -> Tensor:
    return torch.cat((rows, rows.new_zeros((EXPAND - 1) * len(rows), *rows.shape[1:])))


def _write(module: DepthwiseDCNv4, start: Any, bias: Tensor | None) -> None:
    """By way of an ordinary layer that has all the channels outside too."""
    dcn = module.dcn
    options = {"kernel_size": dcn.kernel_size, "padding": dcn.padding, "dilation": dcn.dilation}
    wide = DCNv4(EXPAND * dcn.channels, groups=dcn.groups, **options)
    ordinary = DepthwiseDCNv4(EXPAND * dcn.channels, groups=dcn.groups, **options)
    ordinary.dcn = wide  # `expanded` has made another
    _plain_write(ordinary, start, None if bias is None else _taller(bias))
    dcn.set_static_points(start.settled.offsets, start.settled.weights)
    dcn.value_proj.weight.copy_(wide.value_proj.weight[:, : dcn.channels])
    dcn.value_proj.bias.copy_(wide.value_proj.bias)
    dcn.output_proj.weight.copy_(wide.output_proj.weight[: dcn.channels])
    if dcn.output_proj.bias is not None:
        dcn.output_proj.bias.copy_(wide.output_proj.bias[: dcn.channels])


_plain_write = fit_depthwise._write
