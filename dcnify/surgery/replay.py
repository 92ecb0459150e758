"""Repeat a plan on a fresh model, for its structure."""

from __future__ import annotations

from torch import nn

from dcnify.nn import connect_grids
from dcnify.surgery.build import build, get, put
from dcnify.surgery.changes.bias_removal import remove_biases
from dcnify.surgery.handover import begin
from dcnify.surgery.plan import Plan
from dcnify.surgery.prepare import prepare


def replay(model: nn.Module, plan: Plan) -> nn.Module:
    """Repeat a plan's swaps on a fresh model, structure only: new modules stay on the meta device.

    Raises:
        InputError: the plan does not fit the model.
    """
    prepare(model, plan)
    old = {}
    for swap in plan.swaps:
        old[swap.site.path] = get(model, swap.site.path)
        put(model, swap, build(swap.module, original=old[swap.site.path]))
    begin(model, plan, old, remove_biases(model, plan.trims))
    connect_grids(model, plan.input_shape)
    return model
