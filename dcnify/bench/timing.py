"""Time several calls in one interleaved run, so that whatever disturbs one disturbs all alike.

`triton.testing.do_bench` and `torch.utils.benchmark` time one call to the end and then the next;
on a shared machine the noise of a minute then decides who wins. Here every round runs every call
once, in a new order. What one measurement is follows do_bench: warm up first, empty the cache
before each call, CUDA events around it. Besides, the GPU is kept busy until the host is through
with the call, so that a call of many small kernels is not charged for Python.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch

from dcnify.bench.result import Timing

Timed = Callable[[], object]

_FEWEST_ROUNDS = 5
_WARM_UP_SECONDS = 0.05
_LONGEST_HOLD_US = 2000.0
_HOST_CALLS = 200
_MIB = 1 << 20
_LAST_LEVEL = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


@contextmanager
def using(device: torch.device, threads: int | None = None) -> Iterator[None]:
    """The current device, and how many threads the CPU has, while something is timed."""
    before = torch.get_num_threads()
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    try:
        torch.set_num_threads(threads or before)
        with on_device:
            yield
    finally:
        torch.set_num_threads(before)


class CpuClock:
    """Wall time. The cache is emptied by reading a buffer twice the size of the last level."""

    def __init__(self) -> None:
        self.other = torch.ones(_cpu_cache_bytes() * 2 // 4)

    def warm_up(self, call: Timed) -> float:
        """Run a call until it is in its stride; gives the seconds its last run took."""
        until = time.perf_counter() + _WARM_UP_SECONDS
        call()
        while True:
            start = time.perf_counter()
            call()
            end = time.perf_counter()
            if end > until:
                return end - start

    def round(self, calls: Sequence[Timed]) -> list[float]:
        """Run each call once, in this order, each on an empty cache; gives microseconds."""
        times = []
        for call in calls:
            self.other.sum()
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times


class CudaClock:
    """Time between two CUDA events.

    Before each call the device reads a buffer four times the size of its L2 cache, as often as it
    takes for the host to have enqueued the call by the time the device gets to it. Reading leaves
    nothing to write back while the call runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self.other = torch.ones(max(4 * l2, 256 * _MIB) // 4, device=device)
        self.sum = torch.zeros((), device=device)
        self.holds: dict[Timed, int] = {}
        self.evict_us = median(self.round([self._evict])[0] for _ in range(5))

    def warm_up(self, call: Timed) -> float:
        until = time.perf_counter() + _WARM_UP_SECONDS
        call()
        host: list[float] = []
        while True:
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            call()
            host.append((time.perf_counter() - start) * 1e6)
            torch.cuda.synchronize(self.device)
            end = time.perf_counter()
            if end > until and len(host) >= 3:
                break
        hold = min(1.5 * median(host), _LONGEST_HOLD_US)
        self.holds[call] = max(1, math.ceil(hold / self.evict_us))
        return end - start

    def round(self, calls: Sequence[Timed]) -> list[float]:
        events = []
        for call in calls:
            for _ in range(self.holds.get(call, 1)):
                self._evict()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) * 1e3 for start, end in events]

    def _evict(self) -> None:
        torch.sum(self.other, dim=0, out=self.sum)


Clock = CpuClock | CudaClock
"""Measures calls on one kind of device."""


def clock_on(device: torch.device) -> Clock:
    """The clock for a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()


def interleave(
    calls: Mapping[str, Timed], clock: Clock, seconds: float, seed: int = 0
) -> dict[str, Timing]:
    """Time calls that are warmed up round by round, for ``seconds``, each round in another order.

    At least five rounds are made however long they take.
    """
    measured = rounds_of(calls, clock, seconds, seed)
    return {name: timing_of(times) for name, times in measured.items()}


def rounds_of(
    calls: Mapping[str, Timed], clock: Clock, seconds: float, seed: int = 0
) -> dict[str, list[float]]:
    """As `interleave`: the time of each call in microseconds, round by round."""
    shuffle = random.Random(seed).shuffle
    order = list(calls)
    times: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        until, rounds = time.perf_counter() + seconds, 0
        while rounds < _FEWEST_ROUNDS or time.perf_counter() < until:
            shuffle(order)
            measured = clock.round([calls[name] for name in order])
            for name, microseconds in zip(order, measured, strict=True):
                times[name].append(microseconds)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return times


def host_time(call: Timed, device: torch.device) -> Timing:
    """How long a call keeps the host on a CUDA device, without waiting for the device."""
    times = []
    for _ in range(_HOST_CALLS):
        torch.cuda.synchronize(device)
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1e3)
    torch.cuda.synchronize(device)
    return timing_of(times)


def timing_of(microseconds: Sequence[float]) -> Timing:
    """The percentiles of measured times."""
    return Timing(*percentiles(microseconds), rounds=len(microseconds))


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The 20th, the 50th and the 80th, interpolated."""
    quantiles = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    p20, p50, p80 = torch.tensor(values, dtype=torch.float64).quantile(quantiles).tolist()
    return p20, p50, p80


def _cpu_cache_bytes() -> int:
    """Of the last level, where Linux tells; bounded, for emptying it takes time as well."""
    try:
        known = int(_LAST_LEVEL.read_text("ascii").strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        known = 0
    return min(max(known, 32 * _MIB), 128 * _MIB)
