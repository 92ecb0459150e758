"""The conversions of the study: built-in recipes, and what is changed in them."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dcnify
from dcnify.data.dataset import spread
from dcnify.surgery.fidelity.images import with_held_out
from dcnify.surgery.fidelity.measure import Agreement
from real_weights.photographs import Photographs

_SEEN = 16
"""Images that a conversion gets which does not calibrate: it only reports on them."""


@dataclass(frozen=True)
class Conversion:
    """A built-in recipe and what is changed in it."""

    recipe: str
    changes: tuple[str, ...] = ()
    half: bool = False
    """Whether only every second layer is swapped."""
    widely: bool = True
    """Whether it is measured on the models as well that recipes were not tuned for."""


_SWAP = "swaps.depthwise"
_NO_BOUND = f"{_SWAP}.replace.offset_rank=null"
_EIGHT = f"{_SWAP}.replace.group_channels=8"
_FIT = f"{_SWAP}.init=fit"

CONVERSIONS = {
    "version 0.1.0: transfer": Conversion(
        "mobilenet",
        (_NO_BOUND, _EIGHT, f"{_SWAP}.init=transfer"),
        widely=False,
    ),
    "version 0.1.0: fit, with projections": Conversion(
        "mobilenet",
        (_NO_BOUND, _EIGHT, _FIT, f"{_SWAP}.replace.pointwise=true"),
        widely=False,
    ),
    "transfer": Conversion("mobilenet", (f"{_SWAP}.init=transfer",)),
    "mobilenet": Conversion("mobilenet"),
    "mobilenet, 8 channels a group": Conversion("mobilenet", (_EIGHT,), widely=False),
    "mobilenet-calibrated": Conversion("mobilenet-calibrated"),
    "mobilenet-calibrated, 8 channels a group": Conversion(
        "mobilenet-calibrated", (_EIGHT,), widely=False
    ),
    "mobilenet-calibrated, every second layer": Conversion("mobilenet-calibrated", half=True),
}

YARDSTICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "the original, image flipped": lambda images: images.flip(3),
    "the original, image shifted by 4 pixels": lambda images: images.roll(4, 3),
}
"""What is done to the images that the original is given a second time."""


def row_of(
    model: nn.Module, conversion: Conversion, images: Photographs, expected: Tensor
) -> dict[str, Any]:
    """Convert a copy of the model, and compare it on the images that it has not seen.

    Args:
        model: the original.
        conversion: which.
        images: to calibrate and to measure on.
        expected: the original's outputs for ``images.measured``.
    """
    example = images.measured[:1]
    changes = [*conversion.changes, "require.on_violation=warn"]
    if conversion.half:
        recipe = dcnify.Recipe.load(conversion.recipe, changes)
        paths = [swap.site.path for swap in dcnify.plan(model, recipe, example).swaps][::2]
        changes.append(f"{_SWAP}.select.modules=[{', '.join(paths)}]")
    recipe = dcnify.Recipe.load(conversion.recipe, changes)
    given = _asked_for(recipe, images.calibrated)
    start = time.process_time()
    result = dcnify.convert(copy.deepcopy(model), recipe, example, given)
    seconds = time.process_time() - start
    levels = [min(max(site.sqnr_db, -99.0), 99.0) for site in result.report.sites]
    plan = result.plan
    return {
        **closeness(outputs(result.model, images.measured), expected),
        "layers": len(plan.swaps),
        "mean SQNR of layers dB": sum(levels) / len(levels),
        "parameters": result.report.parameters[1],
        "parameters before": result.report.parameters[0],
        "FLOPs": plan.model_flops + sum(swap.flops - swap.site.flops for swap in plan.swaps),
        "FLOPs before": plan.model_flops,
        "CPU seconds": seconds,
    }


def _asked_for(recipe: dcnify.Recipe, images: Tensor) -> Tensor:
    """As many of the images as the recipe takes by default, at even distances."""
    steps = [step for swap in recipe.swaps for step in swap.init]
    batches = max((step.batches or 0 for step in steps), default=0)
    count = with_held_out(batches) if batches else _SEEN
    return images[list(itertools.islice(spread(count, len(images)), count))]


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    """(N, D): logits or features."""
    return torch.cat([model(batch) for batch in images.split(16)])


def closeness(seen: Tensor, expected: Tensor) -> dict[str, Any]:
    """How close outputs (N, D) are to the original's; as classifiers too, if they are logits."""
    sums = Agreement()
    sums.add(expected, seen)
    first = expected.argmax(1)
    top = seen.topk(5, 1).indices
    divergence = F.kl_div(
        seen.log_softmax(1), expected.log_softmax(1), reduction="batchmean", log_target=True
    )
    return {
        "images": len(seen),
        "agreement": float((seen.argmax(1) == first).float().mean()),
        "in top 5": float((top == first[:, None]).any(1).float().mean()),
        "KL": float(divergence),
        "cosine": float(F.cosine_similarity(seen, expected).mean()),
        "output SQNR dB": sums.sqnr_db,
    }
