"""Role ``depthwise_conv``: an ``aten.conv2d`` whose groups equal its input and output channels."""

from __future__ import annotations

from torch import fx

from dcnify.graph.axis_rules import AxesOf
from dcnify.graph.capture import Capture
from dcnify.graph.evaluate import arguments_of
from dcnify.roles.base import Seen
from dcnify.roles.convolutions import find_convolutions, groups_of, kernel_of, shape_of
from dcnify.roles.depthwise_conv import DepthwiseFacts


def find_depthwise(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    del axes  # a depthwise convolution says all about itself
    return find_convolutions(
        capture, "depthwise_conv", lambda node: groups_of(node) > 1, _refusal, _facts
    )


def _refusal(node: fx.Node) -> str | None:
    channels = shape_of(arguments_of(node)["input"])[1]
    groups, out = groups_of(node), shape_of(node)[1]
    if groups != channels or out != channels:
        return f"grouped, not depthwise: {groups} groups, {channels} channels in, {out} out"
    if kernel_of(node)[2:] == (1, 1):
        return "its kernel is 1x1: a scale per channel, nothing in space"
    return None


def _facts(*, node: fx.Node, **facts) -> DepthwiseFacts:
    del node
    return DepthwiseFacts(**facts)
