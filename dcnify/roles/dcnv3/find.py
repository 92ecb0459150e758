"""Role ``dcnv3``: deformable convolutions of InternImage, ours and those of anybody's code.

Foreign layers are known by their parts (`dcnify.nn.dcnv3_parts`), never by importing the package
they come from. Their own kernel may not run here, or not export; so the captured twin of the model
runs them on our operator, and what is found in the graph is the same for all.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import fx, nn

from dcnify.errors import InputError
from dcnify.graph.axis_rules import AxesOf
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.evaluate import arguments_of
from dcnify.graph.site import NearMiss, Site
from dcnify.nn.dcnv3 import DCNv3
from dcnify.nn.dcnv3_parts import is_dcnv3, parts_of
from dcnify.roles.dcnv3 import Dcnv3Facts
from dcnify.roles.find import site_at

ROLE = "dcnv3"
_FUSED = ".FusedDCNv3"


def on_our_operator(model: nn.Module) -> dict[str, str]:
    """Let every foreign DCNv3 layer of ``model`` run on our operator; instances, not classes.

    Returns:
        Reasons, by path, why layers that look like one were left alone.
    """
    refused = {}
    for path, module in model.named_modules():
        if isinstance(module, DCNv3) or not is_dcnv3(module):
            continue
        try:
            parts_of(module)
        except InputError as error:
            refused[path] = str(error)
            continue
        module.forward = MethodType(_forward, module)
    return refused


def _forward(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return parts_of(module).forward(x)


def find_dcnv3(capture: Capture, axes: AxesOf) -> list[tuple[fx.Node, Site | NearMiss]]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    del axes  # the operator says all about itself
    found: list[tuple[fx.Node, Site | NearMiss]] = []
    for node in capture.operations():
        if node.target is torch.ops.dcnify.dcnv4.default:
            found += _fused_already(node)
        if node.target is not torch.ops.dcnify.dcnv3.default:
            continue
        stack = stack_of(node)
        if not stack:
            found.append((node, NearMiss("", ROLE, "called in the model's own forward")))
            continue
        key, path = list(stack.items())[-1]
        seen = _classify(capture, node, key, path)
        found.append((node, NearMiss(path, ROLE, seen) if isinstance(seen, str) else seen))
    return found


def _fused_already(node: fx.Node) -> list[tuple[fx.Node, NearMiss]]:
    owners = (node.meta.get("nn_module_stack") or {}).values()
    reason = "converted by internimage-exact already: start from the original"
    return [
        (node, NearMiss(path, ROLE, reason)) for path, owner in owners if owner.endswith(_FUSED)
    ]


def _classify(capture: Capture, node: fx.Node, key: str, path: str) -> Site | str:
    region = capture.region(key, path)
    if len(region.inputs) != 1 or len(region.outputs) != 1:
        return "its layer takes or returns more than one tensor"
    shapes = [tuple(map(int, one.meta["val"].shape)) for one in (*region.inputs, *region.outputs)]
    before, after = shapes
    sampling = sampling_at(node)
    channels = int(node.meta["val"].shape[3])
    if len(before) != 4 or before[3] != channels or after[3] != channels:
        return f"its layer turns {before} into {after}, which is not (B, H, W, {channels})"
    top, left = sampling["padding"]
    facts = Dcnv3Facts(
        kernel=sampling["kernel_size"],
        stride=sampling["stride"],
        dilation=sampling["dilation"],
        padding=(top, top, left, left),
        groups=sampling["groups"],
    )
    return site_at(capture, region, ROLE, "BHWC", facts)


def sampling_at(node: fx.Node) -> dict:
    """The keyword arguments of one captured call of the operator, defaults and all."""
    given = arguments_of(node)
    return {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in given.items()
        if name not in ("value", "offset", "mask")
    }
