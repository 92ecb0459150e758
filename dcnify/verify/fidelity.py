"""Verify what an artifact says of its fidelity, with the model that it was made from at hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.artifact.record import Artifact
from dcnify.data import ImageBatch, labels_for
from dcnify.errors import DcnifyError, InputError
from dcnify.graph.example import Example, example_with
from dcnify.progress import Progress, silent
from dcnify.recipe import Recipe
from dcnify.sources.base import Base
from dcnify.sources.compare import compare, shapes_of
from dcnify.sources.open import Source
from dcnify.surgery.fidelity.images import BATCH
from dcnify.surgery.fidelity.measure import measure_output, measure_sites
from dcnify.surgery.handover import set_blend
from dcnify.surgery.plan import PlannedSwap
from dcnify.surgery.prepare import prepare, runnable
from dcnify.surgery.requirements import allowed_error, below_required
from dcnify.verify.files import tolerance
from dcnify.verify.result import Check, Fidelity
from dcnify.words import first_line

_DIFFERENCE = 0.01
"""Of an error, relative to what was reported; 0.09 dB. Smaller errors are held to rounding."""


def refuse_another(record: Artifact, model: nn.Module, source: Source) -> tuple[PlannedSwap, ...]:
    """The swaps that lie between ``source`` and ``model``, the artifact's.

    Raises:
        InputError: the source is of another architecture than what the artifact was made from, or
            has all of its new layers already.
    """
    base, other = record.base, source.base
    if other is not None and not _alike(other, base):
        given = f"{other}" if source.spec == str(other) else f"{other}, which {source.spec} is"
        raise InputError(
            f"{record.path} was made from {base}, not from {given}: "
            "give the model that it was converted from"
        )
    done = {swap.site.path for swap in source.plan.swaps} if source.plan else set()
    swaps = tuple(swap for swap in record.plan.swaps if swap.site.path not in done)
    if record.plan.swaps and not swaps:
        raise InputError(
            f"{source.spec} has the new layers of {record.path} already: "
            "give the model that it was converted from"
        )
    problem = _difference(record, model, source.model, swaps)
    if problem:
        raise InputError(
            f"{source.spec} is not what {record.path} was made from ({base}): {problem}"
        )
    return swaps


def measure(
    model: nn.Module,
    source: Source,
    swaps: Sequence[PlannedSwap],
    images: ImageBatch,
    origin: dict[str, Any],
    progress: Progress | None = None,
    example: Example | None = None,
) -> Fidelity:
    """The new layers of ``model`` against the source's on the source's activations, and outputs.

    ``model`` takes the images' dtype, so that both see the same numbers. Layers that hand over are
    measured as if that were over, which is how the conversion measured them.

    Raises:
        InputError: the two do not run on the same images.
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
            with runnable(model, calls[0]):
                labels = _labels(images, outputs)
                output = measure_output(model, outputs, calls, {}, progress or silent, labels)
    except DcnifyError:
        raise
    except Exception as error:  # whatever a model may raise
        raise InputError(f"{source.spec} cannot be compared: {first_line(error)}") from error
    return Fidelity(tuple(sites), output, origin)


def _labels(images: ImageBatch, outputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """By batch, where the images have labels that are classes of the model."""
    labels, _ = labels_for(images, outputs[0].shape[1] if outputs[0].dim() == 2 else 0)
    return None if labels is None else labels.split(BATCH)


def check_reported(
    record: Artifact, model: nn.Module, fidelity: Fidelity, doubt: str
) -> list[Check]:
    """Whether the report says what was measured now.

    Args:
        record: the artifact.
        model: its model; the coarser its numbers, the more may two measurements differ.
        fidelity: as measured now.
        doubt: why the numbers may differ; nothing if they may not.
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
    """What the recipe requires of layers and certifies of the output; and warnings."""
    checks, warnings = [], []
    wanted = [
        (swap, site) for swap, site in zip(swaps, fidelity.sites, strict=True) if swap.require
    ]
    below = []
    for swap, site in wanted:
        if site.sqnr_db >= swap.require["sqnr_db"]:
            continue
        text = below_required(site, swap.require)
        if swap.require["on_violation"] == "warn":
            warnings.append(text)
        else:
            below.append(text)
    if wanted:
        swap, site = min(wanted, key=lambda pair: pair[1].sqnr_db - pair[0].require["sqnr_db"])
        detail = f"SQNR in dB, worst of {len(wanted)} layers: {site.path}"
        if below:
            more = f" (and {len(below) - 1} more)" if len(below) > 1 else ""
            detail = f"{below[0]}{more}"
        checks.append(Check("require", not below, site.sqnr_db, swap.require["sqnr_db"], detail))
    try:
        certify = Recipe.from_yaml(record.recipe, "recipe.yaml").certify
    except InputError as error:
        checks.append(Check("certify", False, detail=str(error)))
        return checks, warnings
    if certify is not None:
        error, limit = fidelity.output.relative_error, allowed_error(certify.relative_error, model)
        checks.append(
            Check("certify", error <= limit, error, limit, "relative error of the output")
        )
    return checks, warnings


def reported_sites(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of a report's ``sites`` by path, as far as they are in order."""
    sites = report.get("sites")
    return {
        site["path"]: site
        for site in (sites if isinstance(sites, list) else [])
        if isinstance(site, dict) and isinstance(site.get("path"), str)
    }


def _alike(source: Base, base: Base) -> bool:
    """Whether both are of one architecture; InternImage may have been turned into Flash."""
    if source.kind != base.kind:
        return True  # a checkpoint of the same model may be opened in more than one way
    mine, theirs = source.name.partition(".")[0], base.name.partition(".")[0]
    return theirs in (mine, f"flash_{mine}")


def _difference(
    record: Artifact, model: nn.Module, source: nn.Module, swaps: Sequence[PlannedSwap]
) -> str:
    """What keeps the source from being the model that the swaps were made on; nothing if it is.

    The source is given the structure that the swaps were made on.
    """
    try:
        prepare(source, record.plan)
    except InputError as error:
        return str(error)
    places = [path for swap in swaps for path in (swap.site.path, *swap.site.aliases)]
    inside = tuple(f"{path}." for path in places)
    trimmed = {f"{path}.bias" for path in record.plan.trims}
    old, new = (
        {k: v for k, v in shapes_of(one).items() if not k.startswith(inside) and k not in trimmed}
        for one in (source, model)
    )
    problem = compare(old, new)
    if problem:
        return str(problem)
    for swap in swaps:
        try:
            layer = source.get_submodule(swap.site.path)
        except AttributeError:
            return f"it has no {swap.site.path}"
        count = sum(parameter.numel() for parameter in layer.parameters())
        if count != swap.site.parameters:
            was = swap.site.parameters
            return f"its {swap.site.path} has {count:,} parameters, the one replaced had {was:,}"
    return ""


def _as_reported(name: str, shares: list[tuple[str, float]], doubt: str) -> Check:
    if not shares:
        return Check(name, None, detail="the report has no such number")
    path, worst = max(shares, key=lambda pair: pair[1])
    if doubt:
        return Check(name, None, detail=doubt)
    detail = f"relative difference of the error, worst: {path}"
    return Check(name, worst <= _DIFFERENCE, worst, _DIFFERENCE, detail)


def _apart(reported: Any, now: float, floor: float) -> float:
    """How far two SQNRs are apart, as errors: relative to the reported one, or to rounding.

    JSON has null for an SQNR that is infinite or no number.
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
