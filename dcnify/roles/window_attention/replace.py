"""Role ``window_attention``: arguments of its adapter, and ``transfer`` of its projections."""

from __future__ import annotations

from typing import Any

import torch

from dcnify.graph.site import Pair, Site
from dcnify.nn import TokenDCNv4
from dcnify.roles.attention.call import call_of, map_rule
from dcnify.roles.attention.replace import average, carry_projections
from dcnify.roles.base import Arguments, Found, Keys
from dcnify.roles.window_attention.projections import read_projections


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What `TokenDCNv4` needs beyond `DCNv4`'s own to stand at ``site``."""
    del keys
    reach = [(k - 1) * step // 2 for k, step in zip(kernel, site.dilation, strict=True)]
    args: dict[str, Any] = {
        "grid": list(site.grid),
        "layout": site.layout,
        "returns": site.returns,
        "padding": reach,
        "dilation": list(site.dilation),
        "call": call_of(found, site).to_dict(),
    }
    if site.layout == "BNC" and (rule := map_rule(found, site)) is not None:
        args["grid_from"] = rule.to_dict()
    return args, ()


@torch.no_grad()
def transfer(
    module: TokenDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Start from the local average of the old values, through the old projections."""
    dcn = module.dcn
    average(dcn)
    if dcn.without_pointwise:
        return (f"{site.path}: pointwise is off, so the value and output projections are lost",)
    lost = carry_projections(dcn, read_projections(found, site), generator)
    return tuple(f"{site.path}: {text}" for text in lost)
