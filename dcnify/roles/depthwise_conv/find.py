"""Role ``depthwise_conv``: an ``aten.conv2d`` whose groups equal its input and output channels."""

from __future__ import annotations

import torch
from torch import fx

from dcnify.graph.axis_rules import AxesOf, operation
from dcnify.graph.capture import Capture, Region, stack_of
from dcnify.graph.evaluate import arguments_of
from dcnify.graph.isolation.candidates import Candidate
from dcnify.graph.site import NearMiss, Site
from dcnify.roles.base import Seen
from dcnify.roles.depthwise_conv import DepthwiseFacts
from dcnify.roles.find import site_at

ROLE = "depthwise_conv"
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PADDINGS = ("pad", "constant_pad_nd")
_PART = (
    "a functional convolution in the model's own forward",
    "the convolution is called inside a module that does more than convolve",
    "the module that owns the convolution also transforms its input or output",
)
"""Reasons that hold no longer once the convolution is a module of its own."""


def find_depthwise(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    del axes  # a depthwise convolution says all about itself
    found: list[Seen] = []
    for node in capture.operations():
        if node not in capture.image_dependent or not _is_candidate(node):
            continue
        stack = stack_of(node)
        path = list(stack.values())[-1] if stack else ""
        seen = _classify(capture, node, capture.region_at(node, path) if stack else None)
        if not isinstance(seen, str):
            found.append((node, seen))
            continue
        miss = NearMiss(path, ROLE, seen)
        part = Candidate(miss, "conv_region", _source(node), node)
        found.append((node, part if seen in _PART else miss))
    return found


def _is_candidate(node: fx.Node) -> bool:
    """A grouped convolution of any kind."""
    name = operation(node)
    return name in (*_CONVOLUTIONS, *_TRANSPOSED) and _groups(node) > 1


def _groups(node: fx.Node) -> int:
    """The group count, whichever overload the node is."""
    return int(arguments_of(node)["groups"])


def _source(node: fx.Node) -> fx.Node:
    """What a convolution reads, before padding that nothing else reads."""
    source = node.all_input_nodes[0]
    padded = operation(source) in _PADDINGS and len(source.users) == 1
    return source.all_input_nodes[0] if padded and _pad_mode(source) == "constant" else source


def _classify(capture: Capture, node: fx.Node, region: Region | None) -> Site | str:
    """The site at ``node``, or the reason why there is none."""
    given = arguments_of(node)
    source, weight = given["input"], given["weight"]
    shape, kernel = _shape(source), _shape(weight)
    if len(shape) != len(kernel):
        return "a convolution of a single image without a batch axis"
    channels, groups = shape[1], _groups(node)
    if operation(node) in _TRANSPOSED or (operation(node) == "convolution" and node.args[6]):
        return "a transposed convolution"
    if len(kernel) != 4:
        return f"a {len(kernel) - 2}-D convolution"
    if weight in capture.input_dependent:
        return "its weight is computed from the image"
    out = _shape(node)[1]
    if groups != channels or out != channels:
        return f"grouped, not depthwise: {groups} groups, {channels} channels in, {out} out"
    if kernel[2:] == (1, 1):
        return "its kernel is 1x1: a scale per channel, nothing in space"
    if region is None:
        return _PART[0]
    pads = [n for n in region.nodes if operation(n) in _PADDINGS and n in capture.image_dependent]
    if len(region.inputs) != 1 or region.outputs != (node,):
        return _PART[1]
    allowed = {node, *pads}
    if any(n in capture.image_dependent and n not in allowed for n in region.nodes):
        return _PART[2]
    if len(pads) > 1 or (pads and source is not pads[0]):
        return "the module that owns the convolution pads in a way that is not understood"
    if pads and _pad_mode(pads[0]) != "constant":
        return f"{_pad_mode(pads[0])} padding: DCNv4 reads zeros outside the image"
    return site_at(capture, region, ROLE, "BCHW", _facts(node, pads[0] if pads else None))


def _recomputes_padding(node: fx.Node) -> bool:
    """Whether the owner is a TensorFlow-style convolution, whose padding follows the input size."""
    _path, owner = list(node.meta["nn_module_stack"].values())[-1]
    return "same" in owner.rpartition(".")[2].lower()


def _facts(node: fx.Node, pad: fx.Node | None) -> DepthwiseFacts:
    given = arguments_of(node)
    kernel, dilation = _pair(_shape(given["weight"])[2:]), _pair(given["dilation"])
    if given["padding"] == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2]
    else:
        padding = (0, 0) if given["padding"] == "valid" else _pair(given["padding"])
        sides = [padding[0], padding[0], padding[1], padding[1]]
    if pad is not None:
        left, right, top, bottom = [*arguments_of(pad)["pad"], 0, 0, 0, 0][:4]
        sides = [a + b for a, b in zip(sides, (top, bottom, left, right), strict=True)]
    top, bottom, left, right = sides
    return DepthwiseFacts(
        kernel=kernel,
        stride=_pair(given["stride"]),
        dilation=dilation,
        padding=(top, bottom, left, right),
        padding_policy="same" if pad is not None and _recomputes_padding(node) else "fixed",
        bias=given["bias"] is not None,
    )


def _pair(value) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _pad_mode(pad: fx.Node) -> str:
    given = arguments_of(pad)
    mode, fill = given.get("mode", "constant"), given["value"]
    return mode if mode != "constant" or not fill else "non-zero"


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return tuple(int(size) for size in value.shape)
