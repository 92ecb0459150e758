"""Init ``fit`` of an attention in windows: sample where its position bias makes it look.

A map of zeros shows what the layer looks at whatever the image: its relative position bias, and the
parts that shifted windows are divided into. Points and weights are fitted to the mean over windows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dcnify.graph.axes import CHANNEL, Axes
from dcnify.graph.axis_rules import operation
from dcnify.graph.evaluate import UndeterminedError, arguments_of, evaluate
from dcnify.graph.site import Site
from dcnify.nn import TokenDCNv4
from dcnify.roles.attention.attended_points import Look
from dcnify.roles.attention.call import axes_of
from dcnify.roles.attention.fit import fused_probabilities, heads_of_groups, place_points, varies
from dcnify.roles.base import Found
from dcnify.roles.window_attention.projections import probabilities_of, read_projections
from dcnify.roles.window_attention.replace import transfer


@torch.no_grad()
def fit(
    module: TokenDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Carry the projections over as `transfer` does, and place the points by the position bias."""
    warnings = transfer(module, site, found, generator)
    pattern = read_pattern(found, site)
    if pattern is None:
        words = "positions alone do not say where it looks; its points start as by transfer"
        return (*warnings, f"{site.path}: {words}")
    dcn, value = module.dcn, read_projections(found, site).value
    shares, which = heads_of_groups(dcn, value, len(pattern)).unique(dim=0, return_inverse=True)
    attention = torch.einsum("gh,hqk->gqk", shares, pattern)
    look = Look.in_windows(attention, site.window)
    return (*warnings, *place_points(dcn, look, which, site.path, site.dilation))


def read_pattern(found: Found, site: Site) -> Tensor | None:
    """(heads, hw, hw) how the places of a window attend to each other where the map is zero.

    The mean over windows. None where it cannot be told, or is the same for all keys.
    """
    captured, core = found.capture, found.nodes[site.path]
    entry = captured.region_at(core, site.path).inputs[0]
    like = next(iter(captured.tensors.values()), torch.empty(0))
    shape, dtype = entry.meta["val"].shape, entry.meta["val"].dtype
    blank = {entry: torch.zeros(shape, dtype=dtype, device=like.device)}
    axes = axes_of(found)
    try:
        if operation(core).startswith("scaled_dot_product"):
            seen = fused_probabilities(captured, core, blank)
            others = axes.get(arguments_of(core)["query"], ())[:-2]
        else:
            node = probabilities_of(core)
            if node is None or operation(core) == "einsum":
                return None
            seen = evaluate(captured, node, blank)
            others = axes.get(node, ())[:-2]
    except UndeterminedError:
        return None
    return _of_heads(seen.cpu().double(), others, site)


def _of_heads(seen: Tensor, others: Axes, site: Site) -> Tensor | None:
    """The mean over windows of probabilities (..., queries, keys) whose axes in front are given."""
    places = math.prod(site.window)
    if tuple(seen.shape[-2:]) != (places, places) or len(others) != seen.dim() - 2:
        return None
    heads = [i for i, axis in enumerate(others) if CHANNEL in axis.kinds]
    rest = [i for i in range(len(others)) if i not in heads]
    count = math.prod(seen.shape[i] for i in heads)
    if count not in (1, site.heads):
        return None
    moved = seen.permute(*heads, *rest, -2, -1).reshape(count, -1, places, places)
    pattern = moved.mean(1).expand(site.heads, -1, -1)
    return pattern if varies(pattern) else None
