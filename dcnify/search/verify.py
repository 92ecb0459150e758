"""Convert a chosen set, and measure what was predicted of it."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.bench import CONVERTED, ORIGINAL, bench_models, settle_models
from dcnify.errors import CheckError, DcnifyError
from dcnify.search.choose.prediction import Effects, agreement, damage
from dcnify.search.measured import Measured, Store, size_of
from dcnify.search.place import Place
from dcnify.surgery import ConvertResult


class RefusedSetError(CheckError):
    """A set cannot be used: its recipe refuses it, or its output is not finite."""


@dataclass(frozen=True)
class Verified:
    """A set that was converted."""

    measured: Measured
    values: dict[str, float | None]
    """Its quantities, under the names that budgets bound them by."""
    result: ConvertResult | None
    """The conversion; None if it was measured by an earlier call."""


def measure(place: Place, store: Store, paths: Collection[str]) -> Measured:
    """Convert a set, measure the output, and put the model back; what is known is read."""
    what = {"recipe": place.measuring(paths).to_yaml(), "output": True}
    known = store.read(what)
    if known is not None:
        return known
    began = time.perf_counter()
    try:
        with place.converted(paths) as result:
            found = _measured(place, result, tuple(paths))
    except DcnifyError as error:
        found = Measured(tuple(paths), None, refused=str(error))
    found = dataclasses.replace(found, seconds=round(time.perf_counter() - began, 3))
    store.write(what, found)
    return found


def verify(
    place: Place, store: Store, original: Effects, paths: Collection[str], *, again: bool = False
) -> Verified:
    """Convert a copy of the model by the recipe of a set, measure and time it.

    Args:
        place: of the search.
        store: read first, unless ``again``, and written.
        original: the original's output.
        paths: of the set.
        again: the conversion itself is wanted, so that what is known does not do.

    Raises:
        RefusedSetError: the recipe refuses the set, or its output is not finite.
    """
    what = {"recipe": place.measuring(paths).to_yaml(), "bench": _bench(place)}
    known = None if again else store.read(what)
    if known is not None and known.refused:
        raise RefusedSetError(known.refused)
    if known is not None:
        return Verified(known, values_of(place, known, original), None)
    began = time.perf_counter()
    try:
        result = place.convert(place.measuring(paths))
        found = _measured(place, result, tuple(paths))
    except DcnifyError as error:
        store.write(what, Measured(tuple(paths), None, refused=str(error)))
        raise RefusedSetError(str(error)) from error
    latency, ratio, flops = _costs(place, result)
    found = dataclasses.replace(
        found,
        latency=latency,
        latency_ratio=ratio,
        flops_ratio=flops,
        seconds=round(time.perf_counter() - began, 3),
    )
    store.write(what, found)
    return Verified(found, values_of(place, found, original), result)


def values_of(place: Place, found: Measured, original: Effects) -> dict[str, float | None]:
    """The quantities of a set that was measured."""
    plan, size, flops = place.plan, len(found.paths), found.flops_ratio
    assert found.outputs is not None
    before, logits = original.original, original.are_logits
    return {
        "sites": size,
        "sites_ratio": size / len(plan.swaps),
        original.measure: damage(before, found.outputs, logits),
        "agreement": agreement(before, found.outputs) if logits else None,
        "latency": found.latency,
        "latency_ratio": found.latency_ratio,
        "flops": None if flops is None else flops * plan.model_flops,
        "flops_ratio": flops,
        "params": found.params,
        "params_ratio": found.params / max(plan.model_parameters, 1),
    }


def _measured(place: Place, result: ConvertResult, paths: tuple[str, ...]) -> Measured:
    swapped = {swap.site.path for swap in result.plan.swaps}
    if missing := [path for path in paths if path not in swapped]:
        raise DcnifyError(f"{missing[0]} was reverted, as the recipe requires")
    outputs = place.outputs(result.model)
    check_finite(outputs, paths)
    return Measured(
        paths,
        outputs,
        params=result.report.parameters[1],
        sqnr_db={one.path: one.sqnr_db for one in result.report.sites},
    )


def check_finite(outputs: Tensor, paths: Collection[str]) -> None:
    """Refuse a set whose model gives NaN.

    Raises:
        RefusedSetError: an output of an image is not finite.
    """
    finite = torch.isfinite(outputs).flatten(1).all(1)
    if not finite.all():
        raise RefusedSetError(
            f"the model with {size_of(len(paths))} swapped gives NaN or infinities on "
            f"{int((~finite).sum())} of {len(finite)} images"
        )


def _costs(place: Place, result: ConvertResult) -> tuple[float, float, float | None]:
    """Latency of the converted model in milliseconds, and latency and FLOPs as ratios to the
    original's, which runs in turn with it."""
    models = copy.deepcopy(place.source.model), copy.deepcopy(result.model)
    bench = settle_models(place.spec.bench)
    size, example = place.example.shape[1:], place.example
    report = bench_models(*models, size, bench, place.progress, example)
    (forward,) = report.passes
    before, now = (report.models[name].flops for name in (ORIGINAL, CONVERTED))
    flops = now / before if now and before else None
    return forward.timings[CONVERTED].p50_us / 1e3, 1 / forward.speedup.p50, flops


def _bench(place: Place) -> dict[str, object]:
    return {name: str(value) for name, value in vars(settle_models(place.spec.bench)).items()}
