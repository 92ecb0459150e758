"""Role ``attention``: arguments of its adapter, and ``transfer`` of its projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dcnify.graph.site import Pair, Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.nn import DCNv4, PrefixAttention, TokenDCNv4
from dcnify.roles.attention.call import call_of, map_rule
from dcnify.roles.attention.projections import Affine, Projections, read_projections
from dcnify.roles.base import Arguments, Count, Found, Keys


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What `TokenDCNv4` needs beyond `DCNv4`'s own to stand at ``site``."""
    padding = [(k - 1) // 2 for k in kernel]
    args: dict[str, Any] = {
        "grid": list(site.grid),
        "layout": site.layout,
        "prefix_tokens": site.prefix_tokens,
        "prefix": keys["prefix"],
        "returns": site.returns,
        "padding": padding,
        "call": call_of(found, site).to_dict(),
    }
    if site.layout == "BNC" and (rule := map_rule(found, site)) is not None:
        args["grid_from"] = rule.to_dict()
    if not site.prefix_tokens or args["prefix"] != "attend":
        return args, ()
    read = read_projections(found, site)
    if not read.complete or read.query is None or read.value is None:
        note = "prefix tokens run the whole original attention: it has more than four projections"
        return args, (note,)
    attend = {
        "heads": site.heads,
        "query_width": read.query.weight.shape[0],
        "value_width": read.value.weight.shape[0],
        "scale": read.scale,
    }
    return {**args, "attend": attend}, ()


@torch.no_grad()
def transfer(
    module: TokenDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Start from the local average of the old values, through the old output projection.

    Offsets are zero and every aggregation weight is 1/K: a softmax over equal scores on the
    neighbourhood instead of over all tokens.
    """
    dcn = module.dcn
    average(dcn)
    path = site.path
    if dcn.without_pointwise:
        return (f"{path}: pointwise is off, so the value and output projections are lost",)
    lost = carry_projections(dcn, read_projections(found, site), generator)
    return tuple(f"{path}: {text}" for text in lost)


def average(dcn: DCNv4) -> None:
    """Let ``dcn`` sample its neighbourhood with equal weights, whatever its input."""
    groups, points = dcn.groups, dcn.num_points
    like = dcn.offset_mask.weight
    weights = like.new_full((groups, points), 0.0 if dcn.softmax else 1 / points)
    dcn.set_static_points(like.new_zeros(groups, points, 2), weights)
    shut_gate(dcn)


def carry_projections(dcn: DCNv4, read: Projections, generator: torch.Generator) -> list[str]:
    """Copy the projections of an attention into ``dcn``; returns what could not be kept."""
    value, output = read.value, read.output
    if value is None or output is None:
        lost = "value" if value is None else "output"
        for projection in (dcn.value_proj, dcn.output_proj):
            nn.init.xavier_uniform_(projection.weight, generator=generator)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        return [f"its {lost} projection is not affine per token, so projections start fresh"]
    if value.weight.shape[0] == dcn.channels:
        _copy(dcn.value_proj, value)
        _copy(dcn.output_proj, output)
        return []
    composed = Affine(output.weight @ value.weight, output.weight @ value.bias + output.bias)
    nn.init.eye_(dcn.value_proj.weight)
    nn.init.zeros_(dcn.value_proj.bias)
    _copy(dcn.output_proj, composed)
    return []


def flops(module: TokenDCNv4, site: Site, count: Count) -> int:
    """Count the adapter's call; an original layer kept for prefix tokens costs what it did."""
    kept = module.prefix_attn
    if kept is None or isinstance(kept, PrefixAttention):
        return count(module, site.input_shape)
    return site.flops + count(module.dcn, (site.input_shape[0], *site.grid, site.channels))


def carry_prefix(module: TokenDCNv4, site: Site, found: Found) -> None:
    """Fill the prefix tokens' attention with the projections of the layer it came from."""
    if not isinstance(module.prefix_attn, PrefixAttention):
        return
    read = read_projections(found, site)
    for name in ("query", "key", "value", "output"):
        _copy(getattr(module.prefix_attn, name), getattr(read, name))


@torch.no_grad()
def _copy(linear: nn.Linear, affine: Affine) -> None:
    linear.weight.copy_(affine.weight)
    if linear.bias is not None:
        linear.bias.copy_(affine.bias)
