"""Find every site of a model: capture it once, ask each role, number the stages."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from torch import fx, nn

from dcnify.errors import InputError
from dcnify.graph.axis_rules import trace_axes
from dcnify.graph.capture import Capture, Region, capture
from dcnify.graph.flops import node_flops
from dcnify.graph.given_model import module_of
from dcnify.graph.isolation.candidates import Candidate, isolate_candidates
from dcnify.graph.part import example_for
from dcnify.graph.site import Facts, NearMiss, Pair, Site, Sites
from dcnify.roles.base import ROLES, Found, Seen

_STAGE_IN_PATH = re.compile(r"(?:^|\.)(?:stages?|levels?)[._]?(\d+)(?:\.|$)")
_HANDOVER = "dcnify.nn.handover.Handover"


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
    """As `find_sites`, keeping the capture.

    Where a site is a part of a module's forward, that part is isolated on a copy of the model, and
    the copy is captured again.
    """
    model = module_of(model)
    example = example_for(model, example)
    found, candidates = _look(model, example)
    if not candidates:
        return found
    isolated = isolate_candidates(model, found.capture, candidates, _prepare_layers)
    if isolated.isolations:
        try:
            found, _ = _look(isolated.model, example)
        except InputError:  # it exports no longer
            return found
    why = {miss: f"{miss.reason}; {reason}" for miss, reason in isolated.reasons.items()}
    near = tuple(replace(m, reason=why.get(m, m.reason)) for m in found.sites.near_misses)
    sites = replace(found.sites, near_misses=near)
    return replace(found, sites=sites, isolations=isolated.isolations)


def _prepare_layers(model: nn.Module) -> list[NearMiss]:
    """Let layers that only run elsewhere run here, in place; those left alone, and why."""
    return [
        NearMiss(path, role.name, why)
        for role in ROLES.values()
        if role.prepare is not None
        for path, why in role.prepare(model).items()
    ]


def _look(model: nn.Module, example: Any) -> tuple[Found, list[Candidate]]:
    """What the roles see in the model as it is, and what they would see if it were isolated."""
    refused: list[NearMiss] = []

    def prepare(twin: nn.Module) -> dict[str, str]:
        refused.extend(_prepare_layers(twin))
        return {}

    captured = capture(model, example, prepare)
    axes = trace_axes(captured)
    seen: list[Seen] = [(captured.image, miss) for miss in refused]
    for role in ROLES.values():
        seen += role.find(captured, axes)
    order = {node: index for index, node in enumerate(captured.graph.nodes)}
    seen.sort(key=lambda item: order[item[0]])
    held = dict(model.named_modules(remove_duplicate=False))
    judged = [(node, _judged(node, item, held, captured)) for node, item in seen]
    mine = [item for _node, item in judged if isinstance(item, Site)]
    others = [item for _node, item in judged if not isinstance(item, Site)]
    near = [item.miss if isinstance(item, Candidate) else item for item in others]
    near = _with_swallowed(mine, near)
    spoiled = {(miss.path, miss.role) for miss in near}
    mine = [site for site in mine if (site.path, site.role) not in spoiled]
    sites = _number_stages(_one_per_module(mine))
    nodes: dict[str, fx.Node] = {}
    for node, item in judged:
        if isinstance(item, Site):
            nodes.setdefault(item.path, node)
    paths = tuple(path for path in held if path)
    found = Sites(tuple(sites), tuple(dict.fromkeys(near)), paths)
    whole = tuple(f"{site.path}." for site in mine if ROLES[site.role].swallows)
    candidates = [item for item in others if isinstance(item, Candidate)]
    candidates = [one for one in candidates if not f"{one.miss.path}.".startswith(whole)]
    return Found(found, nodes, captured, model), candidates


def site_at(
    capture: Capture, region: Region, role: str, layout: str, facts: Facts, grid: Pair | None = None
) -> Site:
    """The site of a region that takes and returns one tensor of the same layout.

    ``grid`` is that of tokens; a feature map has its own.
    """
    before, after = (
        tuple(int(size) for size in node.meta["val"].shape)
        for node in (region.inputs[0], region.outputs[0])
    )
    rows = layout.index("H") if grid is None else 0
    return Site(
        path=region.path,
        role=role,
        layout=layout,
        input_shape=before,
        output_shape=after,
        channels=before[layout.index("C")],
        grid=grid or (before[rows], before[rows + 1]),
        stage=0,
        parameters=capture.parameter_count.get(region.path, 0),
        flops=node_flops(region.nodes),
        facts=facts,
        aliases=capture.aliases.get(region.path, ()),
    )


def _judged(
    node: fx.Node, seen: Site | NearMiss | Candidate, held: dict[str, nn.Module], capture: Capture
) -> Site | NearMiss | Candidate:
    """What a role found, or a near miss where it cannot be swapped whatever the role."""
    item = seen.miss if isinstance(seen, Candidate) else seen
    owners = [owner for _path, owner in (node.meta.get("nn_module_stack") or {}).values()]
    originals = {name for role in ROLES.values() for name in role.originals}
    ours = any(owner.startswith("dcnify.nn.") and owner not in originals for owner in owners)
    if _HANDOVER in owners:
        return NearMiss(item.path, item.role, "handing over to DCNv4 already")
    if ours and not ROLES[item.role].originals:  # which tells its own layers apart
        return NearMiss(item.path, item.role, "part of a DCNv4 that is already there")
    if isinstance(item, Site) and item.path not in held:
        reason = "the model holds no module of this name: is a slice called?"
        return NearMiss(item.path, item.role, reason)
    if isinstance(item, Site) and not capture.is_called(item.path):
        reason = "nothing calls it as a module: for an exported model, give the ExportedProgram"
        return NearMiss(item.path, item.role, reason)
    return seen


def _with_swallowed(sites: list[Site], near: list[NearMiss]) -> list[NearMiss]:
    """The near misses, and the sites that are part of one whose role swallows theirs."""
    takes = {site.path: ROLES[site.role].swallows for site in sites if ROLES[site.role].swallows}
    left = [miss for miss in near if miss.path not in takes]
    for path, roles in takes.items():
        inside = [one for one in sites if one.role in roles and one.path.startswith(f"{path}.")]
        left += [NearMiss(one.path, one.role, f"part of {path}") for one in inside]
    return left


def _one_per_module(found: list[Site]) -> list[Site]:
    """Calls of one module become one site."""
    first: dict[str, Site] = {}
    for site in found:
        known = next((p for p in (site.path, *site.aliases) if p in first), None)
        if known is None:
            first[site.path] = site
        else:
            first[known] = replace(first[known], calls=first[known].calls + 1)
    return list(first.values())


def _number_stages(sites: list[Site]) -> list[Site]:
    """Stage from the path where it names one (``stages.2``), else the rank of the resolution."""
    counted = [site for site in sites if ROLES[site.role].counts_stages] or sites
    sizes = {_resolution(site) for site in counted}
    numbered = []
    for site in sites:
        named = _STAGE_IN_PATH.search(site.path)
        rank = sum(size > _resolution(site) for size in sizes)
        stage = int(named.group(1)) if named else rank
        numbered.append(replace(site, stage=stage))
    return numbered


def _resolution(site: Site) -> int:
    rows, cols = site.output_shape[2:] if site.layout == "BCHW" else site.grid
    return rows * cols
