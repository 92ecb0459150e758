"""Full autotuning of launches, for those who ask: ``DCNIFY_AUTOTUNE=1``. Kept on disk.

The configurations of `dcnify.kernels.config` follow from counting and need no search. With the
variable set, the first call of each kind times the alternatives on this GPU, and what was fastest
is remembered in ``$DCNIFY_CACHE``, or ``dcnify`` in the user's cache folder, in one file per GPU
and versions of Triton and dcnify.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from dcnify.kernels.config import (
    blocks_around,
    forward_block,
    points_block,
    scatter_block,
    window_for,
    windows_around,
)
from dcnify.kernels.plan import (
    ITEMSIZE,
    BackwardPlan,
    Geometry,
    KernelCall,
    Launch,
    plan_backward,
    plan_forward,
)

from dcnify._version import __version__
from dcnify.errors import DcnifyError
from dcnify.files import write_file

T = TypeVar("T", bound=tuple)
Run = Callable[[Launch], Any]

ON = os.environ.get("DCNIFY_AUTOTUNE", "").lower() not in ("", "0", "no", "off", "false")
"""Whether launches are searched for. Read once, so that a launch costs one look at it."""


def folder() -> Path:
    """Where results are kept."""
    if told := os.environ.get("DCNIFY_CACHE"):
        return Path(told)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dcnify"


class Results:
    """What was fastest, by key, in one file. Any number of processes may share the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known = self._read()

    def best(self, key: str, candidates: Sequence[T], time: Callable[[T], float] | None) -> T:
        """The candidate remembered for ``key``; if there is none, the one ``time`` is least for.

        A candidate that cannot be launched, as when it wants more shared memory than there is, is
        passed over. With none left the first is returned, and nothing is remembered.

        Args:
            key: what the result depends on, besides what the file is for.
            candidates: tuples of plain numbers, the default first.
            time: seconds that a candidate takes; None if this is no time to measure.
        """
        remembered = self.known.get(key)
        for one in candidates:
            if _plain(one) == remembered:
                return one
        if time is None:
            return candidates[0]
        times = {}
        for place, one in enumerate(candidates):
            try:
                times[place] = time(one)
            except _unlaunchable():
                continue
        if not times:
            return candidates[0]
        best = candidates[min(times, key=times.__getitem__)]
        self._keep(key, _plain(best))
        return best

    def _keep(self, key: str, value: list) -> None:
        """Add one result to the file; another process may have added others since it was read."""
        self.known[key] = value
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _Locked(self.file):
                self.known = {**self._read(), **self.known}
                text = json.dumps(self.known, indent=0, sort_keys=True)
                write_file(self.file, lambda new: new.write_text(text), overwrite=True)
        except (OSError, DcnifyError) as error:
            reason = getattr(error, "strerror", None) or error
            _warn_once(f"autotuning results are not kept: {self.file.parent}: {reason}")

    def _read(self) -> dict[str, list]:
        try:
            found = json.loads(self.file.read_text())
            if isinstance(found, dict):
                return found
            raise ValueError("not an object")
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as why:
            _warn_once(f"autotuning results cannot be read: {self.file}: {why.strerror}")
        except ValueError:
            _warn_once(f"autotuning results are not readable and start anew: {self.file}")
        return {}


class _Locked:
    """Holds a lock file where the system has locks; elsewhere the last writer wins."""

    def __init__(self, file: Path) -> None:
        self.file = file.with_suffix(".lock")

    def __enter__(self) -> None:
        self.handle = open(self.file, "w")
        try:
            import fcntl

            fcntl.flock(self.handle, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass

    def __exit__(self, *_: object) -> None:
        self.handle.close()


@lru_cache(maxsize=64)
def results_of(gpu: str) -> Results:
    """The results for a GPU, by the name its driver gives it. Read once per process."""
    import triton

    name = f"{gpu} triton {triton.__version__} dcnify {__version__}"
    return Results(folder() / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)}.json")


def seconds(run: Callable[[], Any]) -> float:
    """Median time of ``run`` on the current GPU."""
    from triton.testing import do_bench

    return do_bench(run, warmup=10, rep=50, return_mode="median") / 1000


def tuned_forward(call: KernelCall, geometry: Geometry, gpu: str, run: Run | None) -> Launch:
    """The launch that is fastest for calls like this.

    Args:
        call: the shapes.
        geometry: kernel size and the rest.
        gpu: the GPU's name.
        run: launches; None if this is no time to measure.
    """
    block = forward_block(call.group_channels, ITEMSIZE[call.dtype], call.target)
    block = results_of(gpu).best(
        key_of("forward", call, geometry),
        blocks_around(block, call.group_channels),
        _timed(run, lambda one: plan_forward(call, geometry, one)),
    )
    return plan_forward(call, geometry, block)


def tuned_backward(
    call: KernelCall,
    geometry: Geometry,
    scale: float,
    want_value: bool,
    gpu: str,
    run_points: Run | None,
    run_value: Run | None,
) -> BackwardPlan:
    """As `tuned_forward`. What the runs add to is added to many times over."""
    usual = plan_backward(call, geometry, scale, want_value)
    size, width = ITEMSIZE[call.dtype], call.group_channels

    def plan(block: Any = None, window: Any = None) -> BackwardPlan:
        return plan_backward(call, geometry, scale, want_value, block, window)

    block = (scatter_block if usual.scatter else points_block)(width, size, call.target)
    block = results_of(gpu).best(
        key_of("scatter" if usual.scatter else "points", call, geometry),
        blocks_around(block, width),
        _timed(run_points, lambda one: plan(one).points),
    )
    if usual.value is None:
        return plan(block)
    stride = geometry.stride_h, geometry.stride_w
    window = window_for(width, geometry.points, geometry.extent(scale), stride, size, call.target)
    assert window is not None  # or the usual launch would scatter
    window = results_of(gpu).best(
        key_of("value", call, geometry),
        windows_around(window),
        _timed(run_value, lambda one: plan(None, one).value),
    )
    return plan(block, window)


def _timed(run: Run | None, launch_of: Callable[[Any], Any]) -> Callable[[Any], float] | None:
    """Seconds that a candidate's launch takes; None if launches cannot be timed now."""
    if run is None:
        return None
    return lambda one: seconds(lambda: run(launch_of(one)))


def key_of(kernel: str, call: KernelCall, geometry: Geometry) -> str:
    """What a result depends on. Numbers of rows, lines and columns count by powers of two."""
    height, width = map(size_class, call.out_size)
    how = f"{call.dtype} {'packed' if call.packed else 'apart'}"
    shape = f"{size_class(call.rows)} rows of {call.group_channels}, {call.groups} groups"
    return f"{kernel}: {how}, {shape}, {height}x{width}, {' '.join(map(str, map(int, geometry)))}"


def size_class(number: int) -> int:
    """``number`` rounded up to a power of two: sizes of one class share their result."""
    return 1 << max(0, number - 1).bit_length()


def _plain(candidate: tuple) -> list:
    return [_plain(one) if isinstance(one, tuple) else one for one in candidate]


def _unlaunchable() -> tuple[type[Exception], ...]:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    return CompilationError, OutOfResources, PTXASError


@lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=2)
