"""Resolve a recipe against a model: `plan` decides everything and changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours
from dcnify.graph.flops import node_flops
from dcnify.graph.isolation.record import needed
from dcnify.roles import ROLES, Replacement, Site
from dcnify.roles.base import Found, Keys
from dcnify.roles.find import find
from dcnify.surgery.build import build, get
from dcnify.surgery.fusing import fusing_notes
from dcnify.surgery.plan import ModuleSpec, Plan, PlannedSwap, Skipped
from dcnify.surgery.resolve import resolve

if TYPE_CHECKING:
    from dcnify.recipe import Recipe, Selection, Swap


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


@dataclass(frozen=True)
class Taken:
    """What a recipe does with the sites of a model, before it is known what goes there."""

    swaps: tuple[tuple[Site, Swap, Keys], ...]
    """Each site that is swapped, and the keys of its swap's ``replace``."""
    skipped: tuple[Skipped, ...]
    selection: Selection


def take(recipe: Recipe, found: Found) -> Taken:
    """Let each swap take its sites.

    Raises:
        InputError: a swap takes nothing.
        CheckError: a swap's ``expect`` is not met.
    """
    from dcnify.recipe import select

    selection = select(recipe, found.sites)
    chosen = {site.path for site, _ in selection.chosen}
    keys = _keys(found, selection.chosen)
    swaps: list[tuple[Site, Swap, Keys]] = []
    stages = {site.path: site.stage for site in found.sites}
    skipped = [Skipped(*item, stages.get(item[0])) for item in selection.skipped]
    for site, swap in selection.chosen:
        outer = next((p for p in chosen if site.path.startswith(p + ".")), None)
        if outer is not None:
            reason = f"inside {outer}, which is swapped"
            skipped.append(Skipped(site.path, site.role, reason, site.stage))
            continue
        swaps.append((site, swap, keys[swap.name]))
    return Taken(tuple(swaps), tuple(skipped), selection)


def plan_found(model: nn.Module, recipe: Recipe, found: Found) -> Plan:
    """As `plan`, on sites that were found already."""
    taken = take(recipe, found)
    swaps = tuple(_planned(found, *one) for one in taken.swaps)
    paths = [one.site.path for one in swaps]
    return Plan(
        recipe=recipe.name,
        input_shape=found.capture.example.shape,
        swaps=swaps,
        skipped=taken.skipped,
        hits=dict(taken.selection.hits),
        notes=(
            *taken.selection.notes,
            *_part_note(found),
            *fusing_notes(found.model, paths),
        ),
        trims=tuple(path for one in taken.swaps for path in biases(found, *one)),
        isolations=needed(found.isolations, paths),
        model_parameters=sum(p.numel() for p in found.model.parameters()),
        model_flops=node_flops(found.capture.operations()),
    )


def _part_note(found: Found) -> list[str]:
    """Which part of the model was seen, if not the whole, and what follows from it."""
    example = found.capture.example
    if not example.part:
        return []
    shape = "x".join(map(str, example.shape))
    return [
        f"only {example.part} is looked at and measured, given {shape}; what the model reads of "
        "its inside elsewhere is not seen"
    ]


def biases(found: Found, site: Site, swap: Swap, keys: Keys) -> tuple[str, ...]:
    """Paths of linear layers beside a site that lose their bias."""
    trimmed = _replacement(swap).biases
    return tuple(trimmed(found, site, keys)) if trimmed else ()


def _replacement(swap: Swap) -> Replacement:
    return ROLES[swap.select.role].replacements[swap.replace.with_]


def _keys(found: Found, chosen: Sequence[tuple[Site, Swap]]) -> dict[str, Keys]:
    """By swap, the keys of its ``replace``, with what all of its sites decide together."""
    taken: dict[str, list[Site]] = {}
    for site, swap in chosen:
        taken.setdefault(swap.name, []).append(site)
    decided: dict[str, Keys] = {}
    for swap in {swap.name: swap for _site, swap in chosen}.values():
        keys, decide = swap.replace.model_dump(), _replacement(swap).decide
        decided[swap.name] = decide(found, taken[swap.name], keys) if decide else keys
    return decided


def _planned(found: Found, site: Site, swap: Swap, keys: Keys) -> PlannedSwap:
    spec, notes, near = specify(found, site, swap, keys)
    original = get(found.model, site.path)
    module = build_at(site, swap, spec, meta_twin(original))
    parameters = sum(p.numel() for p in module.parameters())
    dtype = _dtype(original)

    def count(part: nn.Module, shape: tuple[int, ...]) -> int:
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            part.to(dtype).eval()(torch.empty(shape, device="meta", dtype=dtype))
        return counter.get_total_flops()

    flops = _replacement(swap).flops
    return PlannedSwap(
        site=site,
        swap=swap.name,
        module=spec,
        init=tuple(step.model_dump() for step in swap.init),
        require=swap.require.model_dump() if swap.require else None,
        parameters=parameters,
        flops=flops(module, site, count) if flops else count(module, site.input_shape),
        notes=notes,
        neighbours=near,
        handover=swap.handover,
    )


def specify(
    found: Found, site: Site, swap: Swap, keys: Keys
) -> tuple[ModuleSpec, tuple[str, ...], Neighbours | None]:
    """The module that goes to a site, notes on it, and the layers that may change with it.

    Raises:
        InputError: there is none that fits.
    """
    spec, notes = resolve(found, site, swap.replace.with_, keys)
    near = _neighbours(found, site, swap, keys)
    if isinstance(near, str):
        notes, near = (*notes, f"the channels stay in place: {near}"), None
    if near is not None:
        spec = ModuleSpec(spec.type, {**spec.args, "neighbours": True})
    return spec, notes, near


def build_at(site: Site, swap: Swap, spec: ModuleSpec, original: nn.Module) -> nn.Module:
    """Build the module for a site on the meta device; ``original`` may become a part of it.

    Raises:
        InputError: its arguments do not fit together.
    """
    try:
        return build(spec, original=original)
    except InputError as error:
        raise InputError(f"swap {swap.name!r} at {site.path}: {error}") from error


def _neighbours(found: Found, site: Site, swap: Swap, keys: Keys) -> Neighbours | str | None:
    """Layers that may change with the one at ``site``, if it is calibrated; or why none may."""
    search = _replacement(swap).neighbours
    if search is None or not is_calibrated(swap) or swap.handover or keys["pointwise"]:
        return None
    return search(found, site, keys)


def is_calibrated(swap: Swap) -> bool:
    """Whether a swap fits its layers on images."""
    return any(step.method == "calibrate" for step in swap.init)


def meta_twin(module: nn.Module) -> nn.Module:
    """The module's structure without its memory."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        twin = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        memo[id(parameter)] = twin
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    for part in module.modules():  # a weight that is computed from others cannot be copied
        made = [value for value in vars(part).values() if isinstance(value, torch.Tensor)]
        memo |= {id(value): value.detach().to("meta") for value in made}
    return copy.deepcopy(module, memo)


def _dtype(module: nn.Module) -> torch.dtype:
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())
