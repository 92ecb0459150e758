"""Ordinary training of the study's models, and how good they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from timm.utils import ModelEmaV2
from torch import nn

from inherit_study.models import Subject
from inherit_study.tasks import Task, pixels

BATCH = 64
TUNING_RATE, AVERAGED, LOOK_EVERY = 1e-3, 0.98, 25
"""Of the training that follows a conversion: learning rate, decay of the averaged weights that are
looked at, and how often."""
SHORT, SHORT_RATES = (10, 25, 50, 75, 100, 150, 200, 300, 400, 600, 800, 1200), (1e-3, 3e-4)
"""Steps and rates of the trainings that come to an end."""


@torch.inference_mode()
def accuracy(model: nn.Module, task: Task) -> float:
    """On the validation images."""
    model.eval()
    right = sum(
        int((model(pixels(images)).argmax(1) == labels).sum())
        for images, labels in zip(task.unseen.split(250), task.truth.split(250), strict=True)
    )
    return right / len(task.truth)


def trained(subject: Subject, seed: int, folder: Path, say: Callable[[str], None]) -> nn.Module:
    """The model, trained by one pass over the task's images; kept in ``folder`` for next time."""
    model = subject.create(seed).to(memory_format=torch.channels_last)
    file = folder / f"{subject.name}-{seed}.safetensors"
    if file.exists():
        load_model(model, file)
        return model.eval()
    task = subject.data()
    batch = subject.batch
    steps = subject.images // batch
    optimizer = torch.optim.AdamW(model.parameters(), subject.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, subject.learning_rate, total_steps=steps, pct_start=0.1
    )
    order = torch.randperm(subject.images, generator=torch.Generator().manual_seed(seed))
    model.train()
    for step in range(steps):
        _step(model, optimizer, task, order[step * batch : (step + 1) * batch])
        schedule.step()
        if (step + 1) % (steps // 10) == 0:
            say(f"{subject.name}, seed {seed}: {step + 1} of {steps} steps")
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(file))
    return model.eval()


def steps_back(
    model: nn.Module, task: Task, wanted: float, most: int, seed: int
) -> tuple[int | None, list[float]]:
    """Train on with labels until the accuracy is ``wanted``, or ``most`` steps are done.

    Returns:
        Steps taken (None if that was not enough), and the accuracy at every look, from the start.
    """
    order = torch.randperm(len(task.labels), generator=torch.Generator().manual_seed(100 + seed))
    optimizer = torch.optim.AdamW(model.parameters(), TUNING_RATE, weight_decay=0.05)
    curve = [accuracy(model, task)]
    average = ModelEmaV2(model, AVERAGED)
    for step in range(most):
        if step % LOOK_EVERY == 0 and curve[-1] >= wanted:
            return step, curve
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = TUNING_RATE * min(1.0, (step + 1) / LOOK_EVERY)
        start = step * BATCH % (len(order) - BATCH)
        _step(model, optimizer, task, order[start : start + BATCH])
        average.update(model)
        if (step + 1) % LOOK_EVERY == 0:
            curve.append(accuracy(average.module, task))
    return (most, curve) if curve[-1] >= wanted else (None, curve)


def shortest_back(
    start: nn.Module, task: Task, wanted: float, seed: int
) -> tuple[int | None, float | None, list[tuple[float, int, float]]]:
    """Train with labels, each time anew from the start, for longer and longer.

    Every training is one of its own: its rate comes down to zero at its end. The second rate is
    only tried for fewer steps than the first needed.

    Returns:
        Steps of the shortest training whose end is as good as ``wanted`` (None if none is), its
        rate, and of each training the rate, the steps and the accuracy at its end.
    """
    tried: list[tuple[float, int, float]] = []
    if (accuracy_now := accuracy(start, task)) >= wanted:
        return 0, None, [(0.0, 0, accuracy_now)]
    best: tuple[int, float] | None = None
    for rate in SHORT_RATES:
        for steps in SHORT:
            if best is not None and steps >= best[0]:
                break
            model = copy.deepcopy(start)
            _train_for(model, task, rate, steps, seed)
            tried.append((rate, steps, accuracy(model, task)))
            if tried[-1][-1] >= wanted:
                best = steps, rate
                break
    return (*best, tried) if best else (None, None, tried)


def _train_for(model: nn.Module, task: Task, rate: float, steps: int, seed: int) -> None:
    """A fifth of the steps to warm up, then a cosine to zero."""
    order = torch.randperm(len(task.labels), generator=torch.Generator().manual_seed(100 + seed))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    model.train()
    for step in range(steps):
        _step(model, optimizer, task, order[step * BATCH : (step + 1) * BATCH])
        schedule.step()


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, batch: torch.Tensor
) -> None:
    images = pixels(task.images[batch]).contiguous(memory_format=torch.channels_last)
    loss = F.cross_entropy(model(images), task.labels[batch])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
