"""Time a converted model against the original on the same images, in one interleaved run."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcnify.bench.machine import describe
from dcnify.bench.result import ModelReport, ModelSize, ModelTiming, PassResult, Speedup
from dcnify.bench.timing import Clock, Timed, clock_on, percentiles, rounds_of, timing_of, using
from dcnify.errors import InputError
from dcnify.graph.calls import like_of, tensors_in
from dcnify.graph.example import Example, example_with
from dcnify.progress import Progress, silent
from dcnify.words import first_line

ORIGINAL, CONVERTED = "original", "converted"


@dataclass(frozen=True)
class ModelBench:
    """Settings of a run; `dcnify.bench.settle_models` makes them from the user's."""

    device: torch.device
    batch: int
    """Images per batch."""
    dtype: torch.dtype | None = None
    """Type of images and weights; by default that of the converted model's weights."""
    seconds: float = 5.0
    """Duration of each interleaved run, which has at least five rounds."""
    train: bool = False
    """Whether to time forward plus backward in training mode as well."""
    threads: int | None = None
    """CPU threads; by default PyTorch's present number."""
    seed: int = 0
    """Seed for images and orders."""


@dataclass(frozen=True)
class ExportedModel:
    """The converted model in another runtime, timed beside the two in the forward pass."""

    name: str
    parameters: int
    prepare: Callable[[Example], Timed]
    """Takes how the models are called, with the images; returns a call of this one."""


def bench_models(
    original: nn.Module,
    converted: nn.Module,
    size: Sequence[int],
    bench: ModelBench,
    progress: Progress = silent,
    example: Example | None = None,
    exported: Sequence[ExportedModel] = (),
) -> ModelReport:
    """Time both models on the same random images, in turn, in channels_last.

    Args:
        original: the model from before; moved to the device and dtype, and left in eval mode.
        converted: the converted model, treated likewise.
        size: (C, H, W) of an image.
        bench: settings.
        progress: Progress callback.
        example: how both are called; by default with images alone.
        exported: others to time in the same run.

    Raises:
        InputError: a model does not run on such images, or not in the device's memory.
    """
    models = {ORIGINAL: original, CONVERTED: converted}
    dtype = bench.dtype or like_of(converted).dtype
    shape = (bench.batch, *size)
    where = f"{'x'.join(map(str, shape))} in {_name(dtype)} on {bench.device}"
    trained = (False, True) if bench.train else (False,)
    with using(bench.device, bench.threads):
        with _in_words("there is no room for images of", where):
            images = torch.randn(*shape, generator=torch.Generator().manual_seed(bench.seed))
            images = images.to(bench.device, dtype).contiguous(memory_format=torch.channels_last)
            called = example_with(images, example)
            for model in models.values():
                model.to(bench.device, dtype).to(memory_format=torch.channels_last).eval()
        clock = clock_on(bench.device)
        passes: list[PassResult] = []
        sizes: dict[str, ModelSize] = {}
        for train in trained:
            progress(_pass_name(train), len(passes), len(trained))
            calls = {
                name: _call(model.train(train), called, train) for name, model in models.items()
            }
            if not train:
                calls |= {one.name: one.prepare(called) for one in exported}
            for name, call in calls.items():
                with _in_words(f"the {name} model does not run {_pass_name(train)} on", where):
                    clock.warm_up(call)
            if not sizes:
                sizes = {name: _size(model, called) for name, model in models.items()}
                sizes |= {one.name: ModelSize(one.parameters, None) for one in exported}
            peaks = {
                name: _peak(model, calls[name], bench.device) for name, model in models.items()
            }
            passes.append(_timed(calls, clock, bench, train, peaks))
        for model in models.values():
            model.eval()
        machine = describe(bench.device)
    return ModelReport(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        shape=shape,  # type: ignore[arg-type]  # size has three
        dtype=_name(dtype),
        seconds=bench.seconds,
        seed=bench.seed,
        models=sizes,
        passes=tuple(passes),
    )


def _timed(
    calls: dict[str, Timed],
    clock: Clock,
    bench: ModelBench,
    train: bool,
    peaks: dict[str, int | None],
) -> PassResult:
    rounds = rounds_of(calls, clock, bench.seconds, bench.seed)
    timings = {}
    for name, measured in rounds.items():
        found = timing_of(measured)
        rate = bench.batch / found.p50_us * 1e6
        peak = peaks.get(name)
        timings[name] = ModelTiming(**vars(found), images_per_s=rate, peak_memory_bytes=peak)
    speedups = {
        name: Speedup(*percentiles([a / b for a, b in zip(rounds[ORIGINAL], own, strict=True)]))
        for name, own in rounds.items()
        if name != ORIGINAL
    }
    speedup = speedups.pop(CONVERTED)
    clocked = "device" if bench.device.type == "cuda" else "wall"
    return PassResult(_pass_name(train), clocked, timings, speedup, speedups)


def _call(model: nn.Module, example: Example, train: bool) -> Timed:
    """Return a function that runs forward without a graph, or forward and backward."""
    if not train:
        return torch.inference_mode()(lambda: example.call(model))
    weights = [one for one in model.parameters() if one.is_floating_point()]
    for weight in weights:
        weight.requires_grad_()

    def both() -> object:
        outputs = [one for one in tensors_in(example.call(model)) if one.requires_grad]
        loss = sum(one.float().mean() for one in outputs)
        return torch.autograd.grad(loss, weights, allow_unused=True)  # type: ignore[arg-type]

    return both


def _size(model: nn.Module, example: Example) -> ModelSize:
    parameters = sum(one.numel() for one in model.parameters())
    counter = FlopCounterMode(display=False)
    try:
        with torch.inference_mode(), counter:
            example.call(model)
    except Exception:  # a model may run, and yet not beneath a counter
        return ModelSize(parameters, None)
    return ModelSize(parameters, round(counter.get_total_flops() / len(example.images)))


def _peak(model: nn.Module, call: Timed, device: torch.device) -> int | None:
    """Bytes of the model plus those that one call allocates, without the other model."""
    if device.type != "cuda":
        return None
    own = sum(one.nbytes for one in chain(model.parameters(), model.buffers()))
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return own + torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _in_words(what: str, where: str) -> Iterator[None]:
    """Turn whatever a model or torch raises into one line that begins with what was tried."""
    try:
        yield
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise InputError(f"{where}: the memory is not enough; try a smaller --batch") from None
        raise InputError(f"{what} {where}: {first_line(error)}") from error


def _pass_name(train: bool) -> str:
    return "forward+backward" if train else "forward"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
