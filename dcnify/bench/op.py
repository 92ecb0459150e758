"""Time the operator against its rivals, case by case."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import torch

from dcnify.bench.agreement import agrees, error_against_ours
from dcnify.bench.case import Case, Inputs, make_inputs
from dcnify.bench.machine import describe
from dcnify.bench.result import (
    COPY,
    CaseResult,
    Contender,
    Measurement,
    Report,
    Skipped,
    Timing,
)
from dcnify.bench.rivals import OURS, Rival, Unavailable
from dcnify.bench.shapes import Shape
from dcnify.bench.timing import Clock, Timed, clock_on, host_time, interleave, using
from dcnify.errors import CheckError, InputError
from dcnify.progress import Progress, silent
from dcnify.words import first_line

_COPY = Contender(COPY, "a copy that moves as many bytes as the operator has to")
_HOST_SHAPE = Shape(7, 7, 1024, 32)
"""So little work that the time is that of the way through Python."""


@dataclass(frozen=True)
class OpBench:
    """Settings of a run; `dcnify.bench.settle` makes them from the user's."""

    cases: tuple[Case, ...]
    rivals: tuple[Rival, ...]
    device: torch.device
    seconds: float
    """How long each interleaved run goes on."""
    offset_spread: float = 1.0
    seed: int = 0
    threads: int | None = None


def run(bench: OpBench, progress: Progress = silent) -> Report:
    """Measure every case.

    Args:
        bench: what to measure.
        progress: called as ``progress(what, done, total)`` before each case.

    Raises:
        CheckError: a rival that must agree with the operator does not.
        InputError: a case does not fit in the device's memory.
    """
    there = tuple(rival for rival in bench.rivals if not rival.missing)
    results = []
    with using(bench.device, bench.threads):
        clock = clock_on(bench.device)
        for done, case in enumerate(bench.cases):
            progress(str(case), done, len(bench.cases))
            results.append(_measure(case, there, clock, bench))
        progress("host time", len(bench.cases), len(bench.cases))
        host = tuple(_host(case, there, clock) for case in _host_cases(bench))
        machine = describe(bench.device)
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        offset_spread=bench.offset_spread,
        seconds=bench.seconds,
        seed=bench.seed,
        contenders=(_contender(OURS), _COPY, *map(_contender, there)),
        not_installed=tuple(_contender(rival) for rival in bench.rivals if rival.missing),
        cases=tuple(results),
        host=host,
    )


def _contender(rival: Rival) -> Contender:
    return Contender(rival.name, rival.about)


def _measure(case: Case, rivals: tuple[Rival, ...], clock: Clock, bench: OpBench) -> CaseResult:
    inputs = fitting(case, lambda: make_inputs(case))
    calls = {OURS.name: fitting(case, lambda: _call(OURS, inputs)), COPY: _copy(case)}
    for call in calls.values():
        clock.warm_up(call)
    errors: dict[str, float] = {}
    skipped: list[Skipped] = []
    for rival in rivals:
        try:
            if rival.same_function:
                errors[rival.name] = error_against_ours(rival, case)
            call = _call(rival, inputs)
            limit = max(bench.seconds, 1.0)
            if clock.warm_up(call) > limit:
                raise Unavailable(f"one call takes over {limit:g} s; a longer --time includes it")
            calls[rival.name] = call
        except CheckError:
            raise
        except Exception as error:  # whatever a library says of a case it does not have
            skipped.append(Skipped(rival.name, reason_of(error)))
    times = interleave(calls, clock, bench.seconds, bench.seed)
    same = {OURS.name, COPY} | {rival.name for rival in rivals if rival.same_function}
    return CaseResult(
        **_about(case),
        clock="device" if case.device.type == "cuda" else "wall",
        floor_bytes=case.floor_bytes,
        measurements=tuple(
            _measurement(name, times, case if name in same else None, errors.get(name))
            for name in times
        ),
        skipped=tuple(skipped),
        remarks=tuple(
            f"{name} gives another answer than dcnify, relative error {error:.1e}"
            for name, error in errors.items()
            if name in calls and not agrees(error, case)
        ),
    )


def _measurement(
    name: str, times: dict[str, Timing], case: Case | None, error: float | None
) -> Measurement:
    timing = times[name]
    moves: dict[str, Any] = {}
    if case is not None:
        moves["gb_per_s"] = case.floor_bytes / timing.p50_us / 1e3
        moves["share_of_copy"] = times[COPY].p50_us / timing.p50_us
    return Measurement(
        **vars(timing),
        contender=name,
        ratio_to_ours=timing.p50_us / times[OURS.name].p50_us,
        max_rel_error=error,
        **moves,
    )


def _about(case: Case) -> dict[str, Any]:
    return {
        "shape": str(case.shape),
        "batch": case.batch,
        "groups": case.shape.groups,
        "dtype": case.dtype_name,
        "pass_name": case.pass_name,
    }


def _call(rival: Rival, inputs: Inputs) -> Timed:
    """The call that is timed: forward alone without a graph, or forward and its gradients."""
    prepared, case = rival.prepare(inputs), inputs.case
    leaves = tuple(leaf.detach().requires_grad_(case.backward) for leaf in prepared.leaves)
    forward = prepared.forward
    if not case.backward:
        return lambda: forward(*leaves)
    grad = torch.empty_like(forward(*leaves).detach()).normal_(generator=case.random())
    return lambda: torch.autograd.grad(forward(*leaves), leaves, grad)


def _copy(case: Case) -> Timed:
    """Read and write together as many bytes as the operator has to move."""
    random = torch.empty(case.floor_bytes // 2, dtype=torch.uint8, device=case.device)
    source = random.random_(generator=case.random())
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _host_cases(bench: OpBench) -> Iterator[Case]:
    """One image of the smallest shape, for each pass; on CUDA, where the host can run ahead."""
    if bench.device.type == "cuda":
        first = bench.cases[0]
        for backward in dict.fromkeys(case.backward for case in bench.cases):
            yield replace(first, shape=_HOST_SHAPE, batch=1, backward=backward)


def _host(case: Case, rivals: tuple[Rival, ...], clock: Clock) -> CaseResult:
    inputs = make_inputs(case)
    times: dict[str, Timing] = {}
    skipped = []
    for rival in (OURS, *rivals):
        try:
            call = _call(rival, inputs)
            clock.warm_up(call)
            times[rival.name] = host_time(call, case.device)
        except Exception as error:  # as above
            skipped.append(Skipped(rival.name, reason_of(error)))
    return CaseResult(
        **_about(case),
        clock="host",
        floor_bytes=case.floor_bytes,
        measurements=tuple(_measurement(name, times, None, None) for name in times),
        skipped=tuple(skipped),
    )


_Made = TypeVar("_Made")


def fitting(case: Case, make: Callable[[], _Made]) -> _Made:
    """What ``make`` returns; `InputError` where the case does not fit in the memory."""
    try:
        return make()
    except RuntimeError as error:  # a CPU has no OutOfMemoryError
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError(
                f"{case} does not fit in the memory of {case.device}; try a smaller --batch"
            ) from None
        raise


def reason_of(error: Exception) -> str:
    """Why a contender could not run, in a line."""
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return "out of memory"
    return first_line(error)
