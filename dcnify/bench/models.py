"""Time whole models against each other on one input, in one interleaved run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from dcnify.bench.machine import Machine, describe
from dcnify.bench.timing import Timing, clock_on, interleave

ORIGINAL, CONVERTED = "original", "converted"


@dataclass(frozen=True)
class ModelBench:
    """How long each model takes for one batch, in evaluation mode, in microseconds."""

    machine: Machine
    shape: tuple[int, ...]
    """(B, C, H, W) of the input."""
    dtype: str
    timings: dict[str, Timing]

    @property
    def speedup(self) -> float | None:
        """Median time of the original over that of the converted model; None without both."""
        both = self.timings.get(ORIGINAL), self.timings.get(CONVERTED)
        if both[0] is None or both[1] is None:
            return None
        return both[0].p50_us / both[1].p50_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "shape": list(self.shape), "speedup": self.speedup}


@torch.inference_mode()
def bench_models(
    models: Mapping[str, nn.Module],
    shape: Sequence[int],
    device: torch.device,
    seconds: float = 5.0,
) -> ModelBench:
    """Run every model on the same random images, in turn, in channels_last.

    Args:
        models: by name; moved to ``device``, and in evaluation mode afterwards.
        shape: (B, C, H, W).
        device: where to.
        seconds: how long in all. At least five rounds are made however long they take.
    """
    dtype = next((p.dtype for one in models.values() for p in one.parameters()), torch.float32)
    images = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device, dtype).contiguous(memory_format=torch.channels_last)
    for model in models.values():
        model.to(device, memory_format=torch.channels_last).eval()
    calls = {name: _call(model, images) for name, model in models.items()}
    clock = clock_on(device)
    for call in calls.values():
        clock.warm_up(call)
    timings = interleave(calls, clock, seconds)
    return ModelBench(describe(device), tuple(shape), str(dtype).removeprefix("torch."), timings)


def _call(model: nn.Module, images: torch.Tensor) -> Any:
    return lambda: model(images)
