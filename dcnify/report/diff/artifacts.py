"""What differs between two artifacts apart from their weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from dcnify.artifact import Artifact
from dcnify.errors import InputError
from dcnify.recipe import Recipe, resolved
from dcnify.report.artifact_page import OUTPUT, conversion_in, exact
from dcnify.report.diff.difference import Change, changes, measured
from dcnify.report.measured import measured_in
from dcnify.report.quantity import DECIBEL, PERCENT, SHORT_COUNT
from dcnify.surgery.plan import Plan, PlannedSwap
from dcnify.surgery.table import module_label

_MADE_WITH = ("seed", "versions", "images")


def artifact_changes(a: Artifact, b: Artifact) -> dict[str, tuple[Change, ...]]:
    """What differs, by part.

    Raises:
        InputError: the report of one was edited into something that dcnify does not write.
    """
    try:
        found = {
            "recipe": changes(_recipe(a), _recipe(b)),
            "plan": _together(_plan(a.plan, b.plan)),
            "neighbours": _neighbours(a.plan, b.plan),
            "fidelity": _fidelity(a.report, b.report),
            "training": _training(a.report, b.report),
            "cost": _cost(a, b),
            "origin": changes(_origin(a), _origin(b)),
        }
        return {part: tuple(ones) for part, ones in found.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the report of {a.path} or of {b.path} is damaged: {error!r}") from error


def _recipe(record: Artifact) -> dict[str, Any]:
    """The recipe with today's defaults in place, or as it is written where today's refuses it."""
    try:
        return resolved(Recipe.from_yaml(record.recipe))
    except InputError:
        return yaml.safe_load(record.recipe)


def _plan(a: Plan, b: Plan) -> Iterator[Change]:
    """Layer by layer: whether it is swapped, and by what."""
    one, other = ({swap.site.path: swap for swap in plan.swaps} for plan in (a, b))
    reasons = [{skipped.path: skipped.reason for skipped in plan.skipped} for plan in (a, b)]
    for path in dict.fromkeys((*one, *other)):
        if path in one and path in other:
            for change in changes(_settings(one[path]), _settings(other[path])):
                yield Change(change.what, change.a, change.b, (path,))
        else:
            a_state, b_state = (
                module_label(swaps[path]) if path in swaps else f"kept: {why.get(path, 'no site')}"
                for swaps, why in zip((one, other), reasons, strict=True)
            )
            yield Change("becomes", a_state, b_state, (path,))


def _settings(swap: PlannedSwap) -> dict[str, Any]:
    return {
        "with": swap.module.type,
        **swap.module.args,
        "init": [{key: v for key, v in step.items() if v is not None} for step in swap.init],
        "require": swap.require,
        "handover": swap.handover,
        "input": swap.site.input_shape,
        "stage": swap.site.stage,
    }


def _together(found: Iterable[Change]) -> Iterator[Change]:
    """The same change of several layers as one."""
    layers: dict[str, list[str]] = defaultdict(list)
    first: dict[str, Change] = {}
    for change in found:
        key = repr((change.what, change.a, change.b))
        first.setdefault(key, change)
        layers[key] += change.layers
    for key, change in first.items():
        yield Change(change.what, change.a, change.b, tuple(layers[key]))


def _neighbours(a: Plan, b: Plan) -> Iterator[Change]:
    """The layers around that change with the calibration of one side alone."""
    one, other = (neighbours_of(plan) for plan in (a, b))
    for layers, of_a in ((one, True), (other, False)):
        alone = tuple(path for path in layers if not (path in one and path in other))
        if alone:
            yield Change("changes with a swap", of_a, not of_a, alone)


def neighbours_of(plan: Plan) -> dict[str, None]:
    """The layers around the swapped ones that change with them, in order."""
    near = (swap.neighbours.layers for swap in plan.swaps if swap.neighbours)
    return dict.fromkeys(path for layers in near for path in layers)


def _fidelity(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    one, other = (conversion_in(report) for report in (a, b))
    for key, words, quantity in OUTPUT:
        before, after = (exact(side.get("output") or {}, key) for side in (one, other))
        yield from measured(words, before, after, quantity)
    layers_a, layers_b = (measured_in(side)[-1].sqnr_db for side in (one, other))
    for path in dict.fromkeys((*layers_a, *layers_b)):
        yield from measured(
            "SQNR of the layer", layers_a.get(path), layers_b.get(path), DECIBEL, (path,)
        )


def _training(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    """What was reached by the last fine-tuning."""
    one, other = ((report.get("finetune") or [{}])[-1] for report in (a, b))
    if one.get("measure", "accuracy") == other.get("measure", "accuracy") == "accuracy":
        for key in ("original", "converted", "finetuned"):
            yield from measured(f"accuracy, {key}", one.get(key), other.get(key), PERCENT)
    yield from changes({"trained on": one.get("data")}, {"trained on": other.get("data")})


def _cost(a: Artifact, b: Artifact) -> Iterator[Change]:
    (_, one), (_, other) = (side.report.get("parameters") or (None, None) for side in (a, b))
    yield from measured("parameters", one, other, SHORT_COUNT)
    yield from measured("FLOPs", _flops(a.plan), _flops(b.plan), SHORT_COUNT)


def _flops(plan: Plan) -> int | None:
    more = sum(swap.flops - swap.site.flops for swap in plan.swaps)
    return plan.model_flops + more if plan.model_flops else None


def _origin(record: Artifact) -> dict[str, Any]:
    report, block = record.report, record.config["dcnify"]
    source = report.get("source") or block.get("source") or {}
    return {
        "source": source.get("spec"),
        "source sha256": source.get("sha256"),
        "base": str(record.base),
        "base arguments": record.base.args or None,
        "input": "x".join(map(str, record.plan.input_shape)),
        **{key: report.get(key) for key in _MADE_WITH},
    }
