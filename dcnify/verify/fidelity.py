"""Measure an artifact's fidelity again, against the model that it was converted from."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dcnify.artifact.record import Artifact
from dcnify.data import ImageBatch, labels_for
from dcnify.errors import DcnifyError, InputError
from dcnify.graph.example import Example, example_with
from dcnify.progress import Progress, silent
from dcnify.recipe import Recipe
from dcnify.sources.open import OpenedModel
from dcnify.surgery.fidelity.images import BATCH
from dcnify.surgery.fidelity.informative import why_unmoved, why_untrained
from dcnify.surgery.fidelity.measure import measure_output, measure_sites
from dcnify.surgery.handover import set_blend
from dcnify.surgery.plan import Plan, PlannedSwap
from dcnify.surgery.prepare import runnable
from dcnify.surgery.require.floor import exemption, shortfall, unmeasured
from dcnify.surgery.require.layers import allowed_error, below_required
from dcnify.verify.files import tolerance
from dcnify.verify.result import Check, Fidelity
from dcnify.words import first_line

_DIFFERENCE = 0.01
"""Allowed relative difference between a measured and a reported error: 0.09 dB."""


def measure(
    model: nn.Module,
    source: OpenedModel,
    swaps: Sequence[PlannedSwap],
    images: ImageBatch,
    origin: dict[str, Any],
    progress: Progress | None = None,
    example: Example | None = None,
) -> Fidelity:
    """The new layers of ``model`` against the source's on the source's activations, and outputs.

    ``model`` takes the images' dtype, so that both see the same numbers. Layers that hand over are
    measured as if that were over, which is how the conversion measured them.
    """
    like = images.tensor
    calls = [example_with(batch, example) for batch in like.split(BATCH)]
    model.to(like.dtype)
    new = {swap.site.path: model.get_submodule(swap.site.path) for swap in swaps}
    if any(swap.handover for swap in swaps):
        set_blend(model, 0)
        new = {path: getattr(layer, "new", layer) for path, layer in new.items()}
    try:
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
            with runnable(source.model, calls[0]):
                sites, outputs = measure_sites(source.model, new, calls, progress or silent)
                unmoved = why_unmoved(source.model, tuple(new), outputs, calls, progress or silent)
            with runnable(model, calls[0]):
                classes = outputs[0].shape[1] if outputs[0].dim() == 2 else 0
                known, _ = labels_for(images, classes)
                labels = None if known is None else known.split(BATCH)
                output = measure_output(model, outputs, calls, {}, progress or silent, labels)
    except DcnifyError:
        raise
    except Exception as error:  # whatever a model may raise
        raise InputError(f"{source.spec} cannot be compared: {first_line(error)}") from error
    untrained = why_untrained(outputs, source.model, source.random_weights)
    reasons = "; ".join(filter(None, (untrained, unmoved))) or None
    output = dataclasses.replace(output, uninformative=reasons)
    return Fidelity(tuple(sites), output, origin, untrained)


def check_reported(
    record: Artifact, model: nn.Module, fidelity: Fidelity, doubt: str
) -> list[Check]:
    """Check that the report says what was measured now.

    The coarser the numbers of ``model``, the more may two measurements differ; ``doubt`` says why
    they may differ altogether.
    """
    floor, said = tolerance(model), reported_sites(record.report)
    sites = [
        (site.path, _apart(said[site.path].get("sqnr_db"), site.sqnr_db, floor))
        for site in fidelity.sites
        if site.path in said
    ]
    was = record.report.get("output")
    output = []
    if isinstance(was, dict):
        output = [("SQNR", _apart(was.get("sqnr_db"), fidelity.output.sqnr_db, floor))]
    return [
        _as_reported("reported fidelity by site", sites, doubt),
        _as_reported("reported fidelity of the output", output, doubt),
    ]


def check_recipe(
    record: Artifact, model: nn.Module, fidelity: Fidelity, swaps: Sequence[PlannedSwap]
) -> tuple[list[Check], list[str]]:
    """Check what the recipe requires of layers and certifies of the output; and warnings."""
    checks: list[Check] = []
    warnings: list[str] = []
    below: list[str] = []
    wanted = [
        (swap.require, site)
        for swap, site in zip(swaps, fidelity.sites, strict=True)
        if swap.require
    ]
    for require, site in wanted:
        if site.sqnr_db < require["sqnr_db"]:
            held = warnings if require["on_violation"] == "warn" else below
            held.append(below_required(site, require))
    if wanted:
        require, site = min(wanted, key=lambda pair: pair[1].sqnr_db - pair[0]["sqnr_db"])
        detail = f"SQNR in dB, worst of {len(wanted)} layers: {site.path}"
        if below:
            detail = below[0] + (f" (and {len(below) - 1} more)" if len(below) > 1 else "")
        checks.append(Check("require", not below, site.sqnr_db, require["sqnr_db"], detail))
    try:
        recipe = Recipe.from_yaml(record.recipe, "recipe.yaml")
    except InputError as problem:
        return [*checks, Check("certify", False, detail=str(problem))], warnings
    if recipe.require is not None:
        asked = recipe.require.model_dump()
        check = _check_floor(asked, record.plan, fidelity)
        if check.passed is False and asked["on_violation"] == "warn":
            warnings.append(f"require not met: {check.detail}")
        elif check.passed is not None:  # else nothing can be required of this model
            checks.append(check)
    certify = recipe.certify
    if certify is not None:
        error, limit = fidelity.output.relative_error, allowed_error(certify.relative_error, model)
        detail = "relative error of the output"
        checks.append(Check("certify", error <= limit, error, limit, detail))
    return checks, warnings


def _check_floor(asked: dict[str, Any], plan: Plan, fidelity: Fidelity) -> Check:
    name, output = "require of the output", fidelity.output
    if exempt := exemption(plan, fidelity.untrained) or unmeasured(asked, output):
        return Check(name, None, detail=exempt)
    missed = shortfall(asked, output)
    return Check(name, not missed, detail=missed or "as the recipe requires")


def reported_sites(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The well-formed entries of a report's ``sites``, by path."""
    sites = report.get("sites")
    return {
        site["path"]: site
        for site in (sites if isinstance(sites, list) else [])
        if isinstance(site, dict) and isinstance(site.get("path"), str)
    }


def _as_reported(name: str, shares: list[tuple[str, float]], doubt: str) -> Check:
    if not shares:
        return Check(name, None, detail="the report has no such number")
    path, worst = max(shares, key=lambda pair: pair[1])
    if doubt:
        return Check(name, None, detail=doubt)
    detail = f"relative difference of the error, worst: {path}"
    return Check(name, worst <= _DIFFERENCE, worst, _DIFFERENCE, detail)


def _apart(reported: Any, now: float, floor: float) -> float:
    """Difference of two SQNRs as errors, relative to the reported one or to rounding.

    In JSON null stands for an SQNR that is infinite or NaN.
    """
    if reported is None and not math.isfinite(now):
        return 0.0
    if reported is not None and (
        isinstance(reported, bool) or not isinstance(reported, int | float)
    ):
        return math.inf
    was, seen = (math.inf if db is None else db for db in (reported, now))
    was, seen = (10 ** (-min(max(db, -1e3), 1e4) / 20) for db in (was, seen))
    apart = abs(was - seen) / max(was, floor)
    return apart if math.isfinite(apart) else math.inf
