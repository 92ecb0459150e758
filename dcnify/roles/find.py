"""Find every site of a model: capture it once, ask each role, number the stages."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from dcnify.graph.axis_rules import trace_axes
from dcnify.graph.capture import Capture, capture
from dcnify.graph.site import NearMiss, Site, Sites
from dcnify.roles.attention.find import find_attention
from dcnify.roles.dcnv3.find import find_dcnv3, on_our_operator
from dcnify.roles.depthwise_conv.find import find_depthwise

_STAGE_IN_PATH = re.compile(r"(?:^|\.)(?:stages?|levels?)[._]?(\d+)(?:\.|$)")


_DCNV3 = "dcnify.nn.dcnv3.DCNv3"
_HANDOVER = "dcnify.nn.handover.Handover"
_FINDERS = (find_depthwise, find_attention, find_dcnv3)
"""One per role: (capture, axes) to sites and near misses."""


@dataclass(frozen=True)
class Found:
    """Sites together with the graph nodes they were found at, for whoever reads weights next."""

    sites: Sites
    nodes: dict[str, fx.Node]
    """By site path: the convolution, or the node at which an attention mixes its values."""
    capture: Capture
    model: nn.Module
    """The live model, for whoever reads layers."""
    projections: dict[str, Any] = field(default_factory=dict)
    """What `dcnify.roles.weights` has read so far, by site path."""


def find_sites(model: nn.Module, example: Any) -> Sites:
    """All sites of ``model``, seen from the graph of one forward pass; nothing is changed.

    Args:
        model: any module that takes an image.
        example: images (B, C, H, W), a tuple of arguments, a dict of keyword arguments, or a
            `dcnify.Example`. Values do not matter, shapes do.

    Raises:
        InputError: the model refuses the example, or `torch.export` cannot capture it.
    """
    return find(model, example).sites


def find(model: nn.Module, example: Any) -> Found:
    """As `find_sites`, keeping the capture."""
    captured = capture(model, example, on_our_operator)
    axes = trace_axes(captured)
    seen = [item for finder in _FINDERS for item in finder(captured, axes)]
    order = {node: index for index, node in enumerate(captured.graph.nodes)}
    seen.sort(key=lambda item: order[item[0]])
    near: list[NearMiss] = []
    mine: list[Site] = []
    nodes: dict[str, fx.Node] = {}
    for node, item in seen:
        if _hands_over(node):
            near.append(NearMiss(item.path, item.role, "handing over to DCNv4 already"))
        elif _is_ours(node) and item.role != "dcnv3":
            near.append(NearMiss(item.path, item.role, "part of a DCNv4 that is already there"))
        elif isinstance(item, NearMiss):
            near.append(item)
        else:
            mine.append(item)
            nodes.setdefault(item.path, node)
    whole = {site.path for site in mine if site.role == "dcnv3"}
    inside = [(site, path) for site in mine for path in whole if site.path.startswith(f"{path}.")]
    near = [miss for miss in near if miss.path not in whole]
    near += [NearMiss(site.path, site.role, f"part of {path}") for site, path in inside]
    spoiled = {(miss.path, miss.role) for miss in near}
    mine = [site for site in mine if (site.path, site.role) not in spoiled]
    paths = tuple(path for path, _ in model.named_modules(remove_duplicate=False) if path)
    held = dict(model.named_modules(remove_duplicate=False))
    near += [
        NearMiss(site.path, site.role, "the model holds no module of this name: is a slice called?")
        for site in mine
        if site.path not in held
    ]
    sites = _number_stages(_one_per_module(mine, model))
    return Found(Sites(tuple(sites), tuple(dict.fromkeys(near)), paths), nodes, captured, model)


def _is_ours(node: fx.Node) -> bool:
    """Whether the node runs inside a module that an earlier conversion put there."""
    owners = (node.meta.get("nn_module_stack") or {}).values()
    return any(owner.startswith("dcnify.nn.") and owner != _DCNV3 for _path, owner in owners)


def _hands_over(node: fx.Node) -> bool:
    """Whether the node runs beside or inside a new layer that is still taking over."""
    owners = (node.meta.get("nn_module_stack") or {}).values()
    return any(owner == _HANDOVER for _path, owner in owners)


def _one_per_module(found: list[Site], model: nn.Module) -> list[Site]:
    """Calls of one module become one site; what the model does not own under its path is left."""
    registered = dict(model.named_modules(remove_duplicate=False))
    first: dict[str, Site] = {}
    for site in found:
        if site.path not in registered:
            continue
        known = next((p for p in (site.path, *site.aliases) if p in first), None)
        if known is None:
            first[site.path] = site
        else:
            first[known] = replace(first[known], calls=first[known].calls + 1)
    return list(first.values())


def _number_stages(sites: list[Site]) -> list[Site]:
    """Stage from the path where it names one (``stages.2``), else the rank of the resolution."""
    sizes = sorted({_resolution(site) for site in sites}, reverse=True)
    numbered = []
    for site in sites:
        named = _STAGE_IN_PATH.search(site.path)
        stage = int(named.group(1)) if named else sizes.index(_resolution(site))
        numbered.append(replace(site, stage=stage))
    return numbered


def _resolution(site: Site) -> int:
    rows, cols = site.output_shape[2:] if site.layout == "BCHW" else site.grid
    return rows * cols
