"""Resolve a recipe against a model: `plan` decides everything and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcnify.errors import InputError
from dcnify.graph.site import Site
from dcnify.nn import PrefixAttention
from dcnify.roles.dcnv3.flash_internimage import Like, like, trims
from dcnify.roles.find import Found, find
from dcnify.surgery.build import build, get
from dcnify.surgery.plan import Plan, PlannedSwap, Skipped
from dcnify.surgery.resolve import resolve

if TYPE_CHECKING:
    from dcnify.recipe import Recipe, Swap


def plan(model: nn.Module, recipe: Recipe, example: Any) -> Plan:
    """What ``recipe`` would do to ``model``, site by site. The model is not changed.

    Args:
        model: any module that takes an image.
        recipe: which sites become what.
        example: what sets the shapes: images (B, C, H, W), a tuple of arguments, a dict of keyword
            arguments, or a `dcnify.Example`.

    Raises:
        InputError: the model refuses the example, a selector hits nothing, a replacement does
            not fit its site.
        CheckError: a swap's ``expect`` is not met.
    """
    return plan_found(model, recipe, find(model, example))


def plan_found(model: nn.Module, recipe: Recipe, found: Found) -> Plan:
    """As `plan`, on sites that were found already."""
    from dcnify.recipe import select

    selection = select(recipe, found.sites)
    chosen = {site.path for site, _ in selection.chosen}
    likes = _likes(model, selection.chosen)
    swaps: list[PlannedSwap] = []
    trimmed: list[str] = []
    skipped = [Skipped(*item) for item in selection.skipped]
    for site, swap in selection.chosen:
        outer = next((p for p in chosen if site.path.startswith(p + ".")), None)
        if outer is not None:
            skipped.append(Skipped(site.path, site.role, f"inside {outer}, which is swapped"))
        else:
            swaps.append(_planned(model, found, site, swap, likes.get(swap.name)))
            if swap.name in likes:
                trimmed += trims(model, likes[swap.name], [site])
    return Plan(
        recipe=recipe.name,
        input_shape=found.capture.example.shape,
        swaps=tuple(swaps),
        skipped=tuple(skipped),
        hits=dict(selection.hits),
        notes=selection.notes,
        trims=tuple(trimmed),
    )


def _likes(model: nn.Module, chosen: Sequence[tuple[Site, Swap]]) -> dict[str, Like]:
    """By swap that names an architecture: which it is, given all the sites that the swap takes."""
    taken: dict[str, list[Site]] = {}
    wanted: dict[str, str] = {}
    for site, swap in chosen:
        if swap.replace.like is not None:
            taken.setdefault(swap.name, []).append(site)
            wanted[swap.name] = swap.replace.like
    return {name: like(wanted[name], model, sites) for name, sites in taken.items()}


def _planned(
    model: nn.Module, found: Found, site: Site, swap: Swap, alike: Like | None
) -> PlannedSwap:
    spec, notes = resolve(found, site, swap.replace, alike)
    original = get(model, site.path)
    try:
        module = build(spec, original=_meta_twin(original))
    except InputError as error:
        raise InputError(f"swap {swap.name!r} at {site.path}: {error}") from error
    return PlannedSwap(
        site=site,
        swap=swap.name,
        module=spec,
        init=tuple(step.model_dump() for step in swap.init),
        require=swap.require.model_dump() if swap.require else None,
        parameters=sum(p.numel() for p in module.parameters()),
        flops=_flops(module, site, _dtype(original)),
        notes=notes,
        handover=swap.handover,
    )


def _meta_twin(module: nn.Module) -> nn.Module:
    """The module's structure without its memory."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        twin = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        memo[id(parameter)] = twin
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(module, memo)


def _dtype(module: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())


def _flops(module: nn.Module, site: Site, dtype: torch.dtype) -> int:
    kept = getattr(module, "prefix_attn", None)
    if kept is None or isinstance(kept, PrefixAttention):
        return _count(module, site.input_shape, dtype)
    image = (site.input_shape[0], *site.grid, site.channels)
    return site.flops + _count(module.dcn, image, dtype)


def _count(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module.to(dtype).eval()(torch.empty(shape, device="meta", dtype=dtype))
    return counter.get_total_flops()
