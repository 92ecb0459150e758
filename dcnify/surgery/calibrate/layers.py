"""Calibrate layers: each new layer, in order, is fitted to the old one on images without labels.

Each layer is given what the converted layers before it really produce, and fitted to the old
layer's output for that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.graph.calls import Call
from dcnify.graph.example import Example
from dcnify.progress import Progress, silent
from dcnify.roles.base import replacement_named
from dcnify.surgery.build import get, put
from dcnify.surgery.calibrate.closed_form import ClosedForm
from dcnify.surgery.calibrate.lockstep import run_in_lockstep
from dcnify.surgery.changes.bias_removal import in_block_of, linear_at, without_bias
from dcnify.surgery.fidelity.images import BATCH, with_held_out
from dcnify.surgery.plan import Plan, PlannedSwap

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


def batches_wanted(plan: Plan) -> int:
    """Number of batches of images that the plan's calibration asks for; 0 if it has none."""
    return max((step["batches"] for swap in plan.swaps for step in _steps(swap)), default=0)


def model_steps(plan: Plan) -> int:
    """Number of steps for which the plan trains the whole model after its layers."""
    return max((step["model_steps"] for swap in plan.swaps for step in _steps(swap)), default=0)


def start_of(plan: Plan) -> str:
    """Name of the init that the layers start from: ``transfer``, or several."""
    methods = [step["method"] for swap in plan.swaps for step in swap.init]
    return " or ".join(dict.fromkeys(one for one in methods if one != "calibrate"))


def images_wanted(recipe: Recipe) -> int | None:
    """Number of images for a recipe's calibration and its measurement; None without one."""
    steps = [step for swap in recipe.swaps for step in swap.init if step.method == "calibrate"]
    return with_held_out(max(step.batches or 0 for step in steps)) if steps else None


@torch.no_grad()
def calibrate_layers(
    model: nn.Module,
    plan: Plan,
    replacements: dict[str, nn.Module],
    examples: Sequence[Example],
    progress: Progress = silent,
    *,
    original: nn.Module | None = None,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Fit ``replacements`` in the order in which they run, on calls of the model.

    The model runs with those that are fitted in place, and is as it was afterwards, but for the
    neighbours of layers: those change for good. Linear layers whose bias the plan removes are
    refitted on the way.

    Args:
        model: with its old layers.
        plan: says which layers are calibrated, and how.
        replacements: the new layers by path.
        examples: calls of the model.
        progress: Progress callback.
        original: a copy of the model, where layers have neighbours.
        seed: of the places of images that closed forms look at.
        only: paths of the layers to fit; the others stay as they are.

    Returns:
        The new weights of those linear layers by path, and warnings.
    """
    swaps = {
        swap.site.path: swap
        for swap in plan.swaps
        if _steps(swap) and (only is None or swap.site.path in only)
    }
    biased = {path: linear_at(model, path) for path in plan.trims if in_block_of(path, swaps)}
    others = [swap for swap in plan.swaps if swap.site.path not in swaps]
    old = {swap.site.path: get(model, swap.site.path) for swap in plan.swaps}
    weights: dict[str, torch.Tensor] = {}
    done: list[str] = []

    near = {path: swap for path, swap in swaps.items() if swap.neighbours is not None}
    closed = None
    if near and original is not None:
        closed = ClosedForm(model, original, near, replacements, seed)
    places = closed.places if closed is not None else ()

    def replace(path: str, calls: list[Call], originals: list[Call]) -> nn.Module:
        if closed is not None and path in places:
            if path in near:
                done.append(path)
                progress("calibrating", len(done), len(swaps))
            return closed.layer(path, calls, originals)
        if path in biased:
            linear = without_bias(biased[path], [call.input for call in calls])
            weights[path] = linear.weight.detach()
            return linear
        module = replacements[path].eval()
        for step in _steps(swaps[path]):
            fit = replacement_named(swaps[path].module.type).calibrate
            if fit is None:
                raise InputError(f"{path}: calibrate is not for role {swaps[path].site.role}")
            fit(module, old[path], _first(calls, BATCH * step["batches"]), step["steps"])
        done.append(path)
        progress("calibrating", len(done), len(swaps))
        return module

    layers = {path: swap.site.aliases for path, swap in swaps.items()}
    try:
        for swap in others:
            put(model, swap, replacements[swap.site.path].eval())
        stops = {**dict.fromkeys((*biased, *places), ()), **layers}
        run_in_lockstep(model, examples, stops, replace, original if near else None)
    finally:
        for swap in others:
            put(model, swap, old[swap.site.path])
    idle = [path for path in (*swaps, *biased) if path not in done and path not in weights]
    words = f"no image reached {len(idle)} layers, which are not calibrated: {', '.join(idle[:3])}"
    return weights, (words,) if idle else ()


def _first(calls: Sequence[Call], images: int) -> list[Call]:
    taken: list[Call] = []
    for call in calls:
        if images <= 0:
            break
        taken.append(call.first(images))
        images -= len(call.input)
    return taken


def _steps(swap: PlannedSwap) -> list[dict[str, Any]]:
    return [step for step in swap.init if step["method"] == "calibrate"]
