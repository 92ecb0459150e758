"""Time the layer and its variants, case by case, each case in one interleaved run."""

from __future__ import annotations

from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from dcnify.bench.ablation.result import AblationCase, AblationReport, VariantTiming
from dcnify.bench.ablation.variants import BASE, VARIANTS, Variant, image
from dcnify.bench.agreement import TOLERANCE, relative_error
from dcnify.bench.case import Case
from dcnify.bench.machine import describe
from dcnify.bench.op import OpBench, fitting, reason_of
from dcnify.bench.result import Contender, Skipped
from dcnify.bench.timing import Clock, Timed, clock_on, percentiles, rounds_of, timing_of, using
from dcnify.errors import CheckError, InputError
from dcnify.progress import Progress, silent


def run_ablation(bench: OpBench, progress: Progress = silent) -> AblationReport:
    """Measure every variant in every case.

    Args:
        bench: what to measure; rivals play no part.
        progress: progress callback.

    Raises:
        CheckError: a variant that computes the same function as the base does not.
        InputError: a case does not fit in the device's memory.
    """
    results = []
    with using(bench.device, bench.threads):
        clock = clock_on(bench.device)
        for done, case in enumerate(bench.cases):
            progress(str(case), done, len(bench.cases))
            results.append(_measure(case, clock, bench))
        machine = describe(bench.device)
    return AblationReport(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        offset_spread=bench.offset_spread,
        seconds=bench.seconds,
        seed=bench.seed,
        variants=tuple(Contender(one.name, one.about) for one in VARIANTS),
        cases=tuple(results),
    )


def _measure(case: Case, clock: Clock, bench: OpBench) -> AblationCase:
    calls: dict[str, Timed] = {}
    skipped: list[Skipped] = []
    base = fitting(case, lambda: _output(VARIANTS[0].make(case), case))
    for variant in VARIANTS:
        if variant.dtype == case.dtype:
            continue
        try:
            layer = variant.make(variant.at(case))
            if variant.same_function:
                _check(variant, _output(layer, case), base, case)
            call = _call(layer, variant.at(case))
            clock.warm_up(call)
            calls[variant.name] = call
        except (CheckError, InputError):
            raise
        except Exception as error:  # whatever a kernel says of a dtype that it does not have
            if variant.name == BASE:
                raise
            skipped.append(Skipped(variant.name, reason_of(error)))
    measured = rounds_of(calls, clock, bench.seconds, bench.seed)
    return AblationCase(
        shape=str(case.shape),
        batch=case.batch,
        dtype=case.dtype_name,
        pass_name=case.pass_name,
        clock="device" if case.device.type == "cuda" else "wall",
        timings=tuple(_timing(name, measured) for name in calls),
        skipped=tuple(skipped),
    )


def _timing(name: str, measured: dict[str, list[float]]) -> VariantTiming:
    pairs = zip(measured[name], measured[BASE], strict=True)
    low, middle, high = percentiles([one / base for one, base in pairs])
    return VariantTiming(
        **vars(timing_of(measured[name])),
        variant=name,
        ratio_p20=low,
        ratio_p50=middle,
        ratio_p80=high,
    )


@torch.inference_mode()
def _output(layer: nn.Module, case: Case) -> Tensor:
    return layer(image(case))


def _check(variant: Variant, found: Tensor, base: Tensor, case: Case) -> None:
    error, allowed = relative_error(found, base), TOLERANCE[case.dtype]
    if not error <= allowed:
        raise CheckError(
            f"{variant.name} and {BASE} disagree at {case}: relative error {error:.1e}, "
            f"allowed {allowed:.0e}; nothing was timed"
        )


def _call(layer: nn.Module, case: Case) -> Timed:
    """Forward in inference mode, or forward and the gradients of input and weights."""
    x = image(case)
    if not case.backward:
        return torch.inference_mode()(lambda: layer(x))
    leaves = (x.requires_grad_(), *layer.parameters())
    grad = case.randn(*x.shape)
    return lambda: torch.autograd.grad(layer(x), leaves, grad)
