"""Handover: old layers fade out beside the new ones, while training lowers their blend."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.nn import connect_grids
from dcnify.nn.handover import Handover, Pairs
from dcnify.surgery.build import carry_settings, get, put, put_at
from dcnify.surgery.changes.bias_removal import Removed, in_block_of, linear_at
from dcnify.surgery.plan import Plan, PlannedSwap
from dcnify.surgery.result import ConvertResult


def begin(
    model: nn.Module, plan: Plan, old: Mapping[str, nn.Module], removed: Mapping[str, Removed]
) -> None:
    """Put the old layers of a plan's handovers beside the new ones, at blend 1.

    Linear layers beside them whose bias the plan removes hand over too, so that the model
    computes exactly what it did.

    Args:
        model: with the new layers in place, and the biases removed.
        plan: says which swaps hand over.
        old: the old layers by site path.
        removed: what `dcnify.surgery.changes.bias_removal.remove_biases` returned.
    """
    handing = [swap for swap in plan.swaps if swap.handover]
    learned = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for swap in handing:
        put(model, swap, _wrapped(old[swap.site.path], get(model, swap.site.path)))
    for path, (weight, bias) in removed.items():
        if in_block_of(path, [swap.site.path for swap in handing]):
            linear = linear_at(model, path)
            put_at(model, path, _wrapped(_as_it_was(linear, weight, bias), linear))
    for parameter, learns in learned:  # other layers may share an old layer's
        parameter.requires_grad_(learns)


def _wrapped(old: nn.Module, new: nn.Module) -> Handover:
    both = Handover(old, new)
    carry_settings(old, both)
    return both


def _as_it_was(linear: nn.Linear, weight: torch.Tensor, bias: nn.Parameter) -> nn.Linear:
    own = nn.Parameter(weight, linear.weight.requires_grad)
    twin = copy.deepcopy(linear, {id(linear.weight): own})
    twin.bias = bias
    return twin


def handovers(model: nn.Module) -> dict[str, Handover]:
    """Return the handovers of ``model``, each by its first path."""
    return {path: one for path, one in model.named_modules() if isinstance(one, Handover)}


def set_blend(model: nn.Module, value: float) -> int:
    """Set the share of the old layers, 1 to 0, in all of ``model``; returns how many layers.

    Call it before the forward pass, in every process of a distributed training. An averaged copy
    of the model (EMA) has a blend of its own.

    Raises:
        InputError: the value is not between 0 and 1, or nothing hands over.
    """
    layers = _some(model)
    for layer in layers.values():
        layer.set_blend(value)
    return len(layers)


def blend_of(model: nn.Module) -> float:
    """The share of the old layers in ``model``: the largest, where they differ.

    Raises:
        InputError: nothing hands over.
    """
    return max(layer.blend.item() for layer in _some(model).values())


def cosine_blend(step: int, steps: int) -> float:
    """A schedule for `set_blend`: half a cosine, from 1 at step 0 to 0 at ``steps`` and beyond.

    Steps count from 1 in training: at blend 1 the new layers learn nothing.

    Raises:
        InputError: ``steps`` is not at least 1.
    """
    if not steps >= 1:
        raise InputError(f"a handover takes at least 1 step, not {steps}")
    done = min(max(step / steps, 0.0), 1.0)
    return (1 + math.cos(math.pi * done)) / 2


@contextmanager
def both_outputs(model: nn.Module) -> Iterator[dict[str, Pairs]]:
    """Within this context, both layers of a handover run at any blend, and both outputs are kept.

    For a loss layer by layer, which lets new layers learn at blend 1 as well. Backward belongs
    inside too, where activations are recomputed; nothing is kept afterwards.

    Yields:
        By path, a list with (old, new) outputs of each call; the old one is detached.

    Raises:
        InputError: nothing hands over.
    """
    layers = _some(model)
    pairs: dict[str, Pairs] = {path: [] for path in layers}
    for path, layer in layers.items():
        layer.pairs = pairs[path]
    try:
        yield pairs
    finally:
        for path, layer in layers.items():
            layer.pairs = None
            pairs[path].clear()


def finish(model: nn.Module, plan: Plan, *, force: bool = False) -> Plan:
    """Remove the old layers from ``model``, at every path.

    A model saved afterwards with the returned plan is as if there had been no handover.

    Args:
        model: a converted model, in place.
        plan: the plan of its conversion.
        force: end it at a blend other than 0, where the outputs change.

    Raises:
        InputError: nothing hands over; or the blend is not 0 and ``force`` is not set.
    """
    layers = _some(model)
    early = [path for path, layer in layers.items() if layer.blend.item() != 0]
    if early and not force:
        blend = layers[early[0]].blend.item()
        raise InputError(
            f"{len(early)} layers still hand over ({early[0]}: blend {blend:.3g}): "
            "bring the blend to 0 first, or pass force=True"
        )
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, Handover):
            put_at(model, path, module.new)
    for layer in layers.values():
        layer.thaw()
    connect_grids(model, plan.input_shape)
    return dataclasses.replace(plan, swaps=settled(plan.swaps))


def finish_result(result: ConvertResult, *, force: bool = False) -> ConvertResult:
    """Return the result of `dcnify.convert` with its handovers finished, see `finish`."""
    return dataclasses.replace(result, plan=finish(result.model, result.plan, force=force))


def settled(swaps: Iterable[PlannedSwap]) -> tuple[PlannedSwap, ...]:
    """Return the swaps without their handovers."""
    return tuple(dataclasses.replace(swap, handover=False) for swap in swaps)


def _some(model: nn.Module) -> dict[str, Handover]:
    layers = handovers(model)
    if not layers:
        raise InputError(
            "no layer of the model hands over: its recipe has no 'handover: true', or it is over"
        )
    return layers
