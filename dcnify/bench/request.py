"""From what a person asked for to what is measured; whatever is wrong is said here, at once."""

import math
import os
from collections.abc import Iterable, Sequence
from itertools import product

import torch

from dcnify.bench.case import Case
from dcnify.bench.models import ModelBench
from dcnify.bench.op import OpBench
from dcnify.bench.peers import PEERS
from dcnify.bench.rivals import BUILT_IN, Rival
from dcnify.bench.shapes import PAPER, parse_shapes
from dcnify.bench.spec import ModelBenchSpec, OpBenchSpec
from dcnify.errors import InputError
from dcnify.words import did_you_mean

RIVALS = BUILT_IN + PEERS
PASSES = {"forward": (False,), "both": (True,), "all": (False, True)}
DTYPES = ("float16", "bfloat16", "float32", "float64")
_DEFAULT_DTYPES = {"cuda": DTYPES[:3], "cpu": ("float32",)}
_DEFAULT_BATCH = {"cuda": 64, "cpu": 4}
_DEFAULT_SECONDS = {"cuda": 2.0, "cpu": 5.0}
_MOST_THREADS = 1024
"""More than that OpenMP may not be able to start, and then it ends the process."""


def settle(spec: OpBenchSpec) -> OpBench:
    """Settle what to measure on this machine; `InputError` for what cannot be measured as asked."""
    _check_numbers(spec)
    spread = spec.offset_spread
    if not (math.isfinite(spread) and spread >= 0):
        raise InputError(f"--offsets is a number of pixels, 0 or more, not {spread:g}")
    found = _device(spec.device)
    seconds = spec.seconds or _DEFAULT_SECONDS[found.type]
    if spec.ablation and _split(spec.rivals):
        raise InputError("--ablation times the layer against itself; leave out --rivals")
    dtypes = _DEFAULT_DTYPES[found.type][: 1 if spec.ablation else None]
    shapes = _split(spec.shapes) or list(spec.shapes)
    names = [_known(name, DTYPES, "dtype") for name in _split(spec.dtypes)]
    backward = [PASSES[_known(name, PASSES, "pass")] for name in _split(spec.passes) or ["all"]]
    cases = tuple(
        Case(
            shape=shape,
            batch=spec.batch or (1 if shape.high_resolution else _DEFAULT_BATCH[found.type]),
            dtype=getattr(torch, dtype),
            device=found,
            backward=with_gradients,
            offset_spread=spread,
            seed=spec.seed,
        )
        for dtype, with_gradients, shape in product(
            dict.fromkeys(names or dtypes),
            dict.fromkeys(one for some in backward for one in some),
            parse_shapes(shapes or [str(PAPER[0]) if spec.ablation else "all"]),
        )
    )
    for case in cases:
        _check_memory(case)
    rivals = () if spec.ablation else _rivals(_split(spec.rivals))
    return OpBench(cases, rivals, found, seconds, spread, spec.seed, spec.threads)


def settle_models(spec: ModelBenchSpec) -> ModelBench:
    """Settle how to time two models on this machine; `InputError` as in `settle`."""
    _check_numbers(spec)
    found = _device(spec.device)
    dtype = spec.dtype
    return ModelBench(
        device=found,
        batch=spec.batch or _DEFAULT_BATCH[found.type],
        dtype=None if dtype is None else getattr(torch, _known(dtype, DTYPES, "dtype")),
        seconds=spec.seconds or _DEFAULT_SECONDS[found.type],
        train=spec.train,
        threads=spec.threads,
        seed=spec.seed,
    )


def _check_numbers(spec: OpBenchSpec | ModelBenchSpec) -> None:
    seconds, batch, threads = spec.seconds, spec.batch, spec.threads
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"--time is a number of seconds above 0, not {seconds:g}")
    for name, number in (("--batch", batch), ("--threads", threads)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, not {number}")
    if threads is not None and threads > _MOST_THREADS:
        raise InputError(f"--threads must be at most {_MOST_THREADS}, not {threads}")


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _known(name: str, valid: Iterable[str], what: str) -> str:
    valid = list(valid)
    if name in valid:
        return name
    otherwise = f", there is {', '.join(valid)}"
    raise InputError(f"unknown {what} {name!r}{did_you_mean(name, valid, otherwise=otherwise)}")


def _rivals(names: list[str]) -> tuple[Rival, ...]:
    by_name = {rival.name: rival for rival in RIVALS}
    known = [_known(name, [*by_name, "all", "none"], "rival") for name in names]
    if "none" in known and len(set(known)) > 1:
        raise InputError("--rivals none goes with no other rival")
    if not known or "all" in known:
        return RIVALS
    return tuple(by_name[name] for name in dict.fromkeys(known) if name != "none")


def _device(text: str | None) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text is None:
        return torch.device("cuda", torch.cuda.current_device()) if count else torch.device("cpu")
    kind, colon, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"unknown device {text!r}, there is cpu, cuda and cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    if not count:
        raise InputError(f"{text}: torch finds no CUDA device here; try --device cpu")
    number = int(index) if colon else torch.cuda.current_device()
    if number >= count:
        raise InputError(f"there is no cuda:{number}, the last is cuda:{count - 1}")
    return torch.device("cuda", number)


def _check_memory(case: Case) -> None:
    """Refuse what cannot fit whatever the implementation: all tensors of one call, twice."""
    if case.device.type == "cuda":
        there = torch.cuda.get_device_properties(case.device).total_memory
    else:
        try:
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # not Linux
            return
    needed = 2 * case.floor_bytes
    if needed > there:
        raise InputError(
            f"{case} needs {needed / 2**30:.1f} GiB or more and {case.device} has "
            f"{there / 2**30:.1f}; try a smaller "
            + ("--batch" if case.batch > 1 else f"shape than {case.shape}")
        )
