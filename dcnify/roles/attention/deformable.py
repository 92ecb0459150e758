"""Layers that sample the map at points which they predict: near misses, since DCNv4 is one."""

from __future__ import annotations

from torch import fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.site import NearMiss
from dcnify.roles.base import Seen

_DEFORMABLE = "it samples the map at points that it predicts: deformable attention or a warp"


def find_deformable(capture: Capture, role: str) -> list[Seen]:
    """A near miss for each module that calls `grid_sample` on the image's features."""
    found: dict[str, fx.Node] = {}
    for node in capture.operations():
        if operation(node).startswith("grid_sampler") and node in capture.image_dependent:
            found.setdefault(next(reversed(stack_of(node).values()), ""), node)
    return [(node, NearMiss(path, role, _DEFORMABLE)) for path, node in found.items()]
