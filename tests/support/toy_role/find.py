"""Find max-poolings that are modules of their own."""

from __future__ import annotations

from support.toy_role import PoolFacts

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import stack_of
from dcnify.graph.site import NearMiss
from dcnify.roles.find import site_at


def find_pooling(capture, axes):
    """Sites of this role, and poolings that are not sites, each with its node."""
    found = []
    for node in capture.operations():
        if operation(node) != "max_pool2d":
            continue
        _input, kernel, stride, padding = [*node.args, (0, 0)][:4]
        key, path = list(stack_of(node).items())[-1]
        region = capture.region(key, path)
        if region.outputs != (node,) or len(region.nodes) > 1:
            found.append((node, NearMiss(path, "max_pool", "its module does more than pool")))
            continue
        facts = PoolFacts(
            kernel=tuple(kernel),
            stride=tuple(stride),
            dilation=(1, 1),
            padding=(padding[0], padding[0], padding[1], padding[1]),
            pixels=kernel[0] * kernel[1],
        )
        found.append((node, site_at(capture, region, "max_pool", "BCHW", facts)))
    return found
