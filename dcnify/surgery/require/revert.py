"""Put original layers back, and choose which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dcnify.surgery.changes.bias_removal import in_block_of
from dcnify.surgery.plan import Plan, PlannedSwap, Skipped
from dcnify.surgery.result import OutputFidelity, SiteFidelity

if TYPE_CHECKING:
    from dcnify.surgery.fidelity.measurements import Measurements


def without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """Return the plan without the swaps at some paths, which become skipped for these reasons."""
    skipped = (
        Skipped(site.path, site.role, f"reverted: {reasons[site.path]}", site.stage)
        for site in (swap.site for swap in plan.swaps)
        if site.path in reasons
    )
    return dataclasses.replace(
        plan,
        swaps=tuple(swap for swap in plan.swaps if swap.site.path not in reasons),
        skipped=(*plan.skipped, *skipped),
        trims=tuple(path for path in plan.trims if not in_block_of(path, reasons)),
    )


def revert(measurements: Measurements, reasons: Mapping[str, str]) -> None:
    """Put the original layers at some paths back, warn, and measure the model without them."""
    if not reasons:
        return
    _take_back(measurements, reasons)
    measurements.warnings += tuple(f"reverted {reason}" for reason in reasons.values())
    measurements.mark_reverted(list(reasons))


def output_without(measurements: Measurements, reasons: Mapping[str, str]) -> OutputFidelity:
    """Measure the output as `revert` would leave it, and leave everything as it is."""
    with measurements.tentatively():
        _take_back(measurements, reasons)
        return measurements.output_now()


def _take_back(measurements: Measurements, reasons: Mapping[str, str]) -> None:
    transaction = measurements.transaction
    transaction.reduce_to(without(transaction.plan, reasons))
    if measurements.fit_again is not None and transaction.plan.swaps:
        measurements.fit_again()


def worst_first(plan: Plan, sites: Iterable[SiteFidelity]) -> list[SiteFidelity]:
    """Sort the new layers of a plan by what they keep for what they cost, the worst first.

    The measure is the layer's relative square error, times one plus the shares of the model's
    parameters and of its FLOPs that the swap adds. Of equals the first in the plan comes first.
    """
    fidelity = {site.path: site for site in sites}
    ranked = sorted(plan.swaps, key=lambda s: -_harm(s, fidelity[s.site.path], plan))
    return [fidelity[swap.site.path] for swap in ranked]


def _harm(swap: PlannedSwap, fidelity: SiteFidelity, plan: Plan) -> float:
    parameters = (swap.parameters - swap.site.parameters) / max(plan.model_parameters, 1)
    flops = (swap.flops - swap.site.flops) / max(plan.model_flops, 1)
    if math.isnan(fidelity.sqnr_db):
        return math.inf
    error = 10 ** min(-fidelity.sqnr_db / 10, 300)
    return error * (1 + max(parameters, 0) + max(flops, 0))
