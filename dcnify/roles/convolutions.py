"""What roles of convolutions share: how one is found and read, and windows aligned with its own.

Imports torch, so declarations of roles leave it alone; their facts are `base.ConvolutionFacts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture, Region, stack_of
from dcnify.graph.evaluate import arguments_of, evaluate
from dcnify.graph.isolation.candidates import Candidate
from dcnify.graph.site import NearMiss, Pair, Site
from dcnify.nn import DCNv4
from dcnify.nn.geometry import aligned_padding, split_padding
from dcnify.roles.base import Found, Seen
from dcnify.roles.find import site_at

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PADDINGS = ("pad", "constant_pad_nd")
_PART = (
    "a functional convolution in the model's own forward",
    "the convolution is called inside a module that does more than convolve",
    "the module that owns the convolution also transforms its input or output",
)
"""Reasons that hold no longer once the convolution is a module of its own."""


def find_convolutions(
    capture: Capture,
    role: str,
    wanted: Callable[[fx.Node], bool],
    refusal: Callable[[fx.Node], str | None],
    facts: Callable[..., Any],
) -> list[Seen]:
    """Sites of a role of convolutions, and what only looked like one, with the node of each.

    Args:
        capture: the model's.
        role: name of the role.
        wanted: whether a convolution of any kind is the role's concern; the others pass unseen.
        refusal: why a 2-D convolution of a batch is not a site of the role, if it is not.
        facts: makes the site's facts; takes those of `_facts_of` by keyword, and ``node``.
    """
    found: list[Seen] = []
    for node in capture.operations():
        if operation(node) not in (*_CONVOLUTIONS, *_TRANSPOSED):
            continue
        if node not in capture.image_dependent or not wanted(node):
            continue
        stack = stack_of(node)
        path = list(stack.values())[-1] if stack else ""
        region = capture.region_at(node, path) if stack else None
        why = _general_refusal(capture, node) or refusal(node)
        why = why or _region_refusal(node, region, capture)
        if why is None:
            assert region is not None
            made = facts(node=node, **_facts_of(node, _pad_in(region, capture)))
            found.append((node, site_at(capture, region, role, "BCHW", made)))
            continue
        miss = NearMiss(path, role, why)
        part = Candidate(miss, "conv_region", _source(node), node)
        found.append((node, part if why in _PART else miss))
    return found


def groups_of(node: fx.Node) -> int:
    """The group count, whichever overload the node is."""
    return int(arguments_of(node)["groups"])


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor."""
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return tuple(int(size) for size in value.shape)


def kernel_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a convolution's weight."""
    return shape_of(arguments_of(node)["weight"])


def pair_of(value: Any) -> Pair:
    """A setting of a convolution as (rows, columns)."""
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _source(node: fx.Node) -> fx.Node:
    """What a convolution reads, before padding that nothing else reads."""
    source = node.all_input_nodes[0]
    padded = operation(source) in _PADDINGS and len(source.users) == 1
    zeros = padded and _pad_mode(source) == "constant" and not _pads_more(source)
    return source.all_input_nodes[0] if zeros else source


def _general_refusal(capture: Capture, node: fx.Node) -> str | None:
    """Why a convolution is not one of a batch of images by a weight."""
    given = arguments_of(node)
    kernel = kernel_of(node)
    if len(shape_of(given["input"])) != len(kernel):
        return "a convolution of a single image without a batch axis"
    if operation(node) in _TRANSPOSED or (operation(node) == "convolution" and node.args[6]):
        return "a transposed convolution"
    if len(kernel) != 4:
        return f"a {len(kernel) - 2}-D convolution"
    if given["weight"] in capture.input_dependent:
        return "its weight is computed from the image"
    return None


def _region_refusal(node: fx.Node, region: Region | None, capture: Capture) -> str | None:
    """Why the call that a convolution ran in is more than that convolution."""
    if region is None:
        return _PART[0]
    pads = [n for n in region.nodes if operation(n) in _PADDINGS and n in capture.image_dependent]
    if len(region.inputs) != 1 or region.outputs != (node,):
        return _PART[1]
    allowed = {node, *pads}
    if any(n in capture.image_dependent and n not in allowed for n in region.nodes):
        return _PART[2]
    if len(pads) > 1 or (
        pads and (arguments_of(node)["input"] is not pads[0] or _pads_more(pads[0]))
    ):
        return "the module that owns the convolution pads in a way that is not understood"
    if pads and _pad_mode(pads[0]) != "constant":
        return f"{_pad_mode(pads[0])} padding: DCNv4 reads zeros outside the image"
    return None


def _pad_in(region: Region, capture: Capture) -> fx.Node | None:
    pads = (n for n in region.nodes if operation(n) in _PADDINGS and n in capture.image_dependent)
    return next(pads, None)


def _pad_mode(pad: fx.Node) -> str:
    given = arguments_of(pad)
    mode, fill = given.get("mode", "constant"), given["value"]
    return mode if mode != "constant" or not fill else "non-zero"


def _pads_more(pad: fx.Node) -> bool:
    """Whether other axes are padded than rows and columns: the channels."""
    return any(arguments_of(pad)["pad"][4:])


def _recomputes_padding(node: fx.Node) -> bool:
    """Whether the owner is a TensorFlow-style convolution, whose padding follows the input size."""
    _path, owner = list(node.meta["nn_module_stack"].values())[-1]
    return "same" in owner.rpartition(".")[2].lower()


def _facts_of(node: fx.Node, pad: fx.Node | None) -> dict[str, Any]:
    """The `ConvolutionFacts` of a convolution, by name."""
    given = arguments_of(node)
    kernel, dilation = pair_of(kernel_of(node)[2:]), pair_of(given["dilation"])
    if given["padding"] == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [reach[0] // 2, reach[0] - reach[0] // 2, reach[1] // 2, reach[1] - reach[1] // 2]
    else:
        padding = (0, 0) if given["padding"] == "valid" else pair_of(given["padding"])
        sides = [padding[0], padding[0], padding[1], padding[1]]
    if pad is not None:
        left, right, top, bottom = [*arguments_of(pad)["pad"], 0, 0, 0, 0][:4]
        sides = [a + b for a, b in zip(sides, (top, bottom, left, right), strict=True)]
    return {
        "kernel": kernel,
        "stride": pair_of(given["stride"]),
        "dilation": dilation,
        "padding": tuple(sides),
        "padding_policy": "same" if pad is not None and _recomputes_padding(node) else "fixed",
        "bias": given["bias"] is not None,
    }


@dataclass(frozen=True)
class Kernel:
    """The effective kernel (out, in / groups, kh, kw) and bias (out,) or None of a convolution."""

    weight: Tensor
    bias: Tensor | None


def read_kernel(found: Found, site: Site) -> Kernel:
    """Return the kernel in force at a site."""
    given = arguments_of(found.nodes[site.path])
    weight, bias = (
        given[name] if given[name] is None else evaluate(found.capture, given[name], {}).detach()
        for name in ("weight", "bias")
    )
    return Kernel(weight, bias)


def aligned_window(site: Site, kernel: Pair) -> dict[str, Any]:
    """Stride, dilation and padding of a window of ``kernel`` points that is where the old one is.

    They are arguments of `DepthwiseDCNv4`.
    """
    dilation = (_dilation(site, kernel, 0), _dilation(site, kernel, 1))
    args: dict[str, Any] = {"stride": list(site.stride), "dilation": list(dilation)}
    if site.padding_policy == "same":
        pairs = (site.kernel, site.stride, site.dilation)
        return {**args, "padding": [0, 0], "same_kernel": [list(pair) for pair in pairs]}
    top, bottom = _aligned(site, kernel, dilation, 0)
    left, right = _aligned(site, kernel, dilation, 1)
    padding, rest = split_padding((top, bottom, left, right))
    return {**args, "padding": list(padding), "input_padding": list(rest) if rest else None}


def _dilation(site: Site, kernel: Pair, axis: int) -> int:
    """1, or as much as it takes that the new window needs no cropped input.

    A layer with little padding reaches pixels at the border that a smaller window, aligned with it,
    would have to leave out.
    """
    if kernel[axis] == 1 or site.padding_policy == "same":
        return 1
    reach = site.dilation[axis] * (site.kernel[axis] - 1)
    least = min(site.padding[2 * axis], site.padding[2 * axis + 1])
    return max(1, -(-(reach - 2 * least) // (kernel[axis] - 1)))


def _aligned(site: Site, kernel: Pair, dilation: Pair, axis: int) -> Pair:
    old_reach = site.dilation[axis] * (site.kernel[axis] - 1)
    sides = (site.padding[2 * axis], site.padding[2 * axis + 1])
    return aligned_padding(sides, old_reach, dilation[axis] * (kernel[axis] - 1))


def tap_positions(site: Site, dcn: DCNv4) -> tuple[Tensor, Tensor]:
    """Pixels under the old kernel's taps, counted from the new window's first pixel."""
    positions = []
    for axis in (0, 1):
        reach = site.dilation[axis] * (site.kernel[axis] - 1)
        new_reach = dcn.dilation[axis] * (dcn.kernel_size[axis] - 1)
        shift = aligned_padding((0, 0), reach, new_reach)[0]
        taps = torch.arange(site.kernel[axis], dtype=torch.float64) * site.dilation[axis]
        positions.append(taps + shift)
    return positions[0], positions[1]
