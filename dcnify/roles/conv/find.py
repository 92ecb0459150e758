"""Role ``conv``: an ``aten.conv2d`` of one group whose windows overlap."""

from __future__ import annotations

from typing import Any

from torch import fx

from dcnify.graph.axis_rules import AxesOf, operation
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.evaluate import arguments_of
from dcnify.graph.site import NearMiss
from dcnify.roles.base import Seen
from dcnify.roles.conv import ConvFacts
from dcnify.roles.convolutions import find_convolutions, groups_of, kernel_of, shape_of

_DEFORMABLE = "it is deformable already (DCN or DCNv2)"
_FEWEST = 8
"""Channels in and out: of fewer there are no groups worth sampling for."""
_OF_IMAGES = 4
"""Up to so many channels in, a convolution is a stem: it reads pixels."""


def find_dense(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    del axes  # a convolution says all about itself
    return [
        *find_convolutions(capture, "conv", _is_dense, _refusal, _facts),
        *_deformable(capture),
    ]


def _deformable(capture: Capture) -> list[Seen]:
    """A near miss for each DCN or DCNv2 layer: torchvision's `deform_conv2d`."""
    return [
        (node, NearMiss(next(reversed(stack_of(node).values()), ""), "conv", _DEFORMABLE))
        for node in capture.operations()
        if operation(node) == "deform_conv2d"
    ]


def _is_dense(node: fx.Node) -> bool:
    """Whether a convolution mixes channels and space: no stem, no projection, no patches."""
    given = arguments_of(node)
    size = kernel_of(node)[2:]
    stride = given["stride"]
    stride = [*stride] * (len(size) if len(stride) == 1 else 1)
    apart = all(step >= one for step, one in zip(stride, size, strict=True))
    return groups_of(node) == 1 and shape_of(given["input"])[1] > _OF_IMAGES and not apart


def _refusal(node: fx.Node) -> str | None:
    channels, out = shape_of(arguments_of(node)["input"])[1], shape_of(node)[1]
    if min(channels, out) < _FEWEST:
        return f"{channels} channels in, {out} out: groups need at least {_FEWEST}"
    return None


def _facts(*, node: fx.Node, **facts: Any) -> ConvFacts:
    return ConvFacts(out_channels=shape_of(node)[1], **facts)
