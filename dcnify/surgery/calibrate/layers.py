"""Calibration: the new layers, in order, learn from the old ones on images, without labels.

Each layer is given what the converted layers before it really produce, and fitted to what the old
layer makes of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.progress import Progress
from dcnify.roles.base import replacement_named
from dcnify.surgery.bias_removal import unbiased
from dcnify.surgery.build import get, put
from dcnify.surgery.calibrate.lockstep import in_lockstep
from dcnify.surgery.fidelity.images import BATCH, with_held_out
from dcnify.surgery.plan import Plan, PlannedSwap

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


def batches_wanted(plan: Plan) -> int:
    """How many batches of images the plan's calibration asks for; 0 if it has none."""
    return max((step["batches"] for swap in plan.swaps for step in _steps(swap)), default=0)


def model_steps(plan: Plan) -> int:
    """Steps in which the whole model learns after its layers, by the plan; 0 for none."""
    return max((step["model_steps"] for swap in plan.swaps for step in _steps(swap)), default=0)


def start_of(plan: Plan) -> str:
    """What the layers start from, by name: ``transfer``, or several."""
    methods = [step["method"] for swap in plan.swaps for step in swap.init]
    return " or ".join(dict.fromkeys(one for one in methods if one != "calibrate"))


def images_wanted(recipe: Recipe) -> int | None:
    """Images that a recipe's calibration asks for, with those that are measured; None if none."""
    steps = [step for swap in recipe.swaps for step in swap.init if step.method == "calibrate"]
    return with_held_out(max(step.batches for step in steps)) if steps else None


@torch.no_grad()
def calibrate(
    model: nn.Module,
    plan: Plan,
    fresh: dict[str, nn.Module],
    batches: Sequence[torch.Tensor],
    progress: Progress | None = None,
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """Fit the modules ``fresh``, in the order in which they run, on images (B, C, H, W).

    The model runs with those that are fitted in place, and is as it was afterwards. Linear layers
    whose bias the plan takes away are made up for on the way.

    Returns:
        The new weights of those linear layers by path, and warnings.
    """
    swaps = {swap.site.path: swap for swap in plan.swaps if _steps(swap)}
    biased = {path: get(model, path) for path in plan.trims if _beside(path, swaps)}
    others = [swap for swap in plan.swaps if swap.site.path not in swaps]
    old = {swap.site.path: get(model, swap.site.path) for swap in plan.swaps}
    weights: dict[str, torch.Tensor] = {}
    done: list[str] = []

    def replace(path: str, inputs: list[torch.Tensor]) -> nn.Module:
        if path in biased:
            linear = unbiased(biased[path], inputs)
            weights[path] = linear.weight.detach()
            return linear
        module = fresh[path].eval()
        for step in _steps(swaps[path]):
            fit = replacement_named(swaps[path].module.type).calibrate
            if fit is None:
                raise InputError(f"{path}: calibrate is not for role {swaps[path].site.role}")
            fit(module, old[path], first_images(inputs, BATCH * step["batches"]), step["steps"])
        done.append(path)
        if progress is not None:
            progress("calibrating", len(done), len(swaps))
        return module

    layers = {path: swap.site.aliases for path, swap in swaps.items()}
    try:
        for swap in others:
            put(model, swap, fresh[swap.site.path].eval())
        in_lockstep(model, batches, {**layers, **dict.fromkeys(biased, ())}, replace)
    finally:
        for swap in others:
            put(model, swap, old[swap.site.path])
    idle = [path for path in (*swaps, *biased) if path not in done and path not in weights]
    words = f"no image reached {len(idle)} layers, which are not calibrated: {', '.join(idle[:3])}"
    return weights, (words,) if idle else ()


def first_images(inputs: Sequence[torch.Tensor], images: int) -> list[torch.Tensor]:
    """Of batches, the first so many images."""
    taken: list[torch.Tensor] = []
    for batch in inputs:
        left = images - sum(map(len, taken))
        if left <= 0:
            break
        taken.append(batch[:left])
    return taken


def _steps(swap: PlannedSwap) -> list[dict[str, Any]]:
    return [step for step in swap.init if step["method"] == "calibrate"]


def _beside(linear: str, swaps: Iterable[str]) -> bool:
    """Whether a linear layer is of the same block as a layer that is calibrated."""
    return any(linear.startswith(path.rpartition(".")[0] + ".") for path in swaps)
