"""Time each swap of a plan on this machine, before anything is converted."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from dcnify.bench.machine import Machine, describe
from dcnify.bench.models import ModelBench
from dcnify.bench.result import Timing
from dcnify.bench.timing import Timed, clock_on, interleave, using
from dcnify.errors import InputError
from dcnify.graph.calls import Call, RecordedCall, record_calls
from dcnify.graph.example import Example
from dcnify.progress import Progress, silent
from dcnify.surgery.build import get
from dcnify.surgery.new_modules import materialise
from dcnify.surgery.plan import Plan
from dcnify.surgery.prepare import prepare
from dcnify.surgery.replay import replay
from dcnify.words import first_line

_SPREAD = 0.02
"""Standard deviation of the new layers' random weights."""


@dataclass(frozen=True)
class SwapTiming:
    """Times of the old layer and of the new one, on the same input."""

    path: str
    old: Timing
    new: Timing


@dataclass(frozen=True)
class PlanTimings:
    """What `time_swaps` measured."""

    machine: Machine
    shape: tuple[int, ...]
    """Of the images."""
    swaps: tuple[SwapTiming, ...]
    """In the plan's order; without layers that no call reached."""
    original: Timing
    """Of the whole model as it is."""
    converted: Timing
    """Of the whole model with all swaps of the plan."""


def time_swaps(
    model: nn.Module,
    plan: Plan,
    example: Example,
    bench: ModelBench,
    progress: Progress = silent,
) -> PlanTimings:
    """Time old and new layers of ``plan``, and the model with each, in one interleaved run.

    The new layers have random weights, on which times hardly depend.

    Args:
        model: the original; it is not changed.
        plan: made from it.
        example: how the model is called; its images are repeated to fill the batch.
        bench: settings; ``train`` and ``dtype`` are not used.
        progress: Progress callback.

    Raises:
        InputError: the model does not run on the device, or cannot be copied.
    """
    plan = replace(plan, swaps=tuple(replace(swap, handover=False) for swap in plan.swaps))
    shape = (bench.batch, *example.shape[1:])
    random = torch.Generator().manual_seed(bench.seed)
    with using(bench.device, bench.threads), _refusals(shape, bench), torch.inference_mode():
        before, after = copy.deepcopy(model), copy.deepcopy(model)
        prepare(before, plan)
        replay(after, plan)
        _fill(after, plan, before, random)
        for one in (before, after):
            one.to(bench.device).to(memory_format=torch.channels_last).eval()
        images = torch.randn(shape, generator=random).to(example.images)
        called = example.with_image(images).to(bench.device)
        calls = _calls_of(before, plan, called)
        timed: dict[str, Timed] = {
            "original": partial(called.call, before),
            "converted": partial(called.call, after),
        }
        for path, call in calls.items():
            timed[f"old {path}"] = partial(call.on, get(before, path))
            timed[f"new {path}"] = partial(call.on, get(after, path))
        clock = clock_on(bench.device)
        for done, call_once in enumerate(timed.values()):
            clock.warm_up(call_once)
            progress("warming up", done + 1, len(timed))
        progress("timing", 0, 1)
        found = interleave(timed, clock, bench.seconds, bench.seed)
        machine = describe(bench.device)
    swaps = tuple(SwapTiming(path, found[f"old {path}"], found[f"new {path}"]) for path in calls)
    return PlanTimings(machine, shape, swaps, found["original"], found["converted"])


def _fill(model: nn.Module, plan: Plan, before: nn.Module, random: torch.Generator) -> None:
    for swap in plan.swaps:
        new = get(model, swap.site.path)
        fresh = {id(one) for one in new.parameters() if one.is_meta}
        names = [name for name, one in new.named_parameters() if id(one) in fresh]
        materialise(new, get(before, swap.site.path), before)
        for name in names:
            new.get_parameter(name).normal_(std=_SPREAD, generator=random)


def _calls_of(model: nn.Module, plan: Plan, example: Example) -> dict[str, Call]:
    """The call of each layer that is swapped, by path in the plan's order."""
    calls: dict[str, RecordedCall] = {}
    paths = [swap.site.path for swap in plan.swaps]
    hooks = [record_calls(get(model, path), path, calls) for path in paths]
    try:
        example.call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: Call(calls[path].args, calls[path].kwargs) for path in paths if path in calls}


@contextmanager
def _refusals(shape: tuple[int, ...], bench: ModelBench) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever a model raises
        size = "x".join(map(str, shape))
        raise InputError(f"cannot time {size} on {bench.device}: {first_line(error)}") from error
