"""The optimizer and schedule of a stage: timm's, with a factor for layers that predict offsets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from dcnify.errors import InputError
from dcnify.finetune.training.selection import offset_parameters
from dcnify.recipe.finetune.section import Optimizer, Schedule

_POWER = 0.9
"""Power of the polynomial schedule, as in DeepLab (arXiv 1606.00915); timm's falls late."""


def learning_rate(optimizer: Optimizer, batch_size: int) -> float:
    """Return the learning rate at ``batch_size``, by the recipe's scaling rule."""
    ratio = batch_size / optimizer.lr_base
    factor = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[optimizer.lr_scaling]
    return optimizer.lr * factor


def create_optimizer(model: nn.Module, chosen: Optimizer, batch_size: int) -> torch.optim.Optimizer:
    """Create timm's optimizer of that name, over the parameters that require gradients.

    Vectors, and the parameters that the model's ``no_weight_decay`` names, do not decay. Each group
    has an ``lr_scale`` for timm's schedulers: layer decay times ``offset_lr``. Raises `InputError`
    if timm has no such optimizer, or it does not take these options.
    """
    knows = get_optimizer_info(chosen.name)
    for option, taken in (("betas", knows.has_betas), ("eps", knows.has_eps)):
        if option in chosen.options and not taken:  # timm would leave it out in silence
            raise InputError(f"optimizer {chosen.name} takes no {option}")
    groups = list(_groups(model, chosen))
    rate = learning_rate(chosen, batch_size)
    for group in groups:
        group["lr"] = rate * group["lr_scale"]
    try:
        return create_optimizer_v2(
            groups, opt=chosen.name, lr=rate, weight_decay=chosen.weight_decay, **chosen.options
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"optimizer {chosen.name}: {error}") from error


def _groups(model: Any, chosen: Optimizer) -> Iterator[dict[str, Any]]:
    skip = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    if chosen.layer_decay is None:
        groups = param_groups_weight_decay(model, chosen.weight_decay, no_weight_decay_list=skip)
    else:
        groups = param_groups_layer_decay(
            model, chosen.weight_decay, no_weight_decay_list=skip, layer_decay=chosen.layer_decay
        )
    predicts = offset_parameters(model)
    offsets = {id(one) for name, one in model.named_parameters() if name in predicts}
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        for factor, wanted in ((1.0, False), (chosen.offset_lr, True)):
            some = [p for p in group["params"] if (id(p) in offsets) == wanted]
            if some:
                yield {**group, "params": some, "lr_scale": scale * factor}


def create_schedule(
    optimizer: torch.optim.Optimizer, chosen: Schedule, rate: float, steps: int
) -> Scheduler:
    """Create timm's schedule of that name, over ``steps`` updates.

    It has no state: the rates follow from the number of updates.
    """
    name = "step" if chosen.name == "none" else chosen.name
    never = steps + 1
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=name,
        num_epochs=steps,
        decay_epochs=never if name != chosen.name else max(1, steps // 3),
        decay_rate=_POWER if name == "poly" else 0.1,
        decay_milestones=[round(0.6 * steps), round(0.85 * steps)],
        warmup_epochs=round(chosen.warmup * steps),
        warmup_lr=chosen.warmup_lr * rate,
        min_lr=chosen.min_lr * rate,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert scheduler is not None
    return scheduler


def rates_of(groups: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest learning rate of the groups, which is the one without a factor."""
    return max((float(group["lr"]) for group in groups), default=0.0)
