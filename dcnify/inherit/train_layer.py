"""Train a new layer by gradient descent to do what the old one does with its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.inherit.precision import in_float32, wide

LEARNING_RATE = 3e-3
_CHECKS = 10


def train_layer(
    module: nn.Module,
    parameters: Iterable[nn.Parameter],
    old: Callable[[Tensor], Any],
    inputs: Sequence[Call | Tensor],
    steps: int,
) -> tuple[float, float]:
    """Optimise ``parameters`` of ``module`` so that it does with ``inputs`` what ``old`` does.

    Adam with a cosine schedule on the mean square error. The last quarter of the batches is held
    out, and of the states along the way the one is kept that does best on it, the first among them.

    Args:
        module: the new layer, which takes what ``old`` takes.
        parameters: those to change.
        old: the old layer.
        inputs: calls of the old layer, or batches of its only input, in any layout.
        steps: of the optimisation; 0 changes nothing.

    Returns:
        The square error on the batches held out, over the square of the old layer's output there:
        before and after.
    """
    with torch.no_grad():
        calls = [Call.of(x) for x in inputs]
        targets = [wide(call.on(old)) for call in calls]
    with in_float32(module):
        return _trained(
            module, list(parameters), [call.map(wide) for call in calls], targets, steps
        )


def _trained(
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    calls: Sequence[Call],
    targets: Sequence[Tensor],
    steps: int,
) -> tuple[float, float]:
    learned = [parameter for parameter in parameters if parameter.is_floating_point()]
    held = max(1, len(calls) // 4) if len(calls) > 1 else 0
    seen, unseen = calls[: len(calls) - held], calls[len(calls) - held :] or calls
    wanted, judged = targets[: len(seen)], targets[len(targets) - len(unseen) :]
    before = best = _error(module, unseen, judged)
    kept = [parameter.detach().clone() for parameter in learned]
    scale = float(torch.stack([t.float().square().mean() for t in wanted]).mean())
    if steps == 0 or not scale > 0:
        return before, before
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    frozen = [parameter.requires_grad for parameter in learned]
    try:
        for parameter in learned:
            parameter.requires_grad_(True)
        for step in range(steps):
            call, target = seen[step % len(seen)], wanted[step % len(seen)]
            with torch.enable_grad():
                loss = (call.on(module).float() - target.float()).square().mean() / scale
                gradients = torch.autograd.grad(loss, learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, steps // _CHECKS) == 0 or step + 1 == steps:
                error = _error(module, unseen, judged)
                if error < best:
                    best, kept = error, [parameter.detach().clone() for parameter in learned]
    finally:
        with torch.no_grad():
            for parameter, value, wants in zip(learned, kept, frozen, strict=True):
                parameter.grad = None
                parameter.requires_grad_(wants)
                parameter.copy_(value)
    return before, best


@torch.no_grad()
def _error(module: nn.Module, calls: Sequence[Call], targets: Sequence[Tensor]) -> float:
    error = sum(
        float((call.on(module).double() - target.double()).square().sum())
        for call, target in zip(calls, targets, strict=True)
    )
    signal = sum(float(target.double().square().sum()) for target in targets)
    return error / signal if signal else 0.0
