"""The updates of a stage: batches through the objective, gradients into the optimizer."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.finetune.training.stage import StageTrainer

_EPOCHS = 10_000
"""More epochs than a stage has, so that no two stages draw the same order of images."""


@dataclass(frozen=True)
class Update:
    """An update of the weights that was made."""

    step: int
    """Updates of the stage so far, this one included."""
    epoch: int
    loss: Tensor
    terms: dict[str, Tensor]
    """Losses by name; ``loss`` is their weighted sum."""


def updates(stage: StageTrainer, done: int) -> Iterator[Update]:
    """Train: make the updates of a stage that remain after ``done`` ones, one for each item."""
    # Frozen parameters too: by the whole list accelerate recognises a model that FSDP sharded.
    parameters = list(stage.objective.parameters())
    averaged = stage.ema.module if stage.ema is not None else None
    step = done
    for epoch, batches in _epochs(stage, done):
        for passes in batches:
            stage.train_mode()
            stage.handover.set(step, stage.steps, averaged)
            stage.schedule.step_update(step + 0.5)
            loss, terms = _update(stage, step, passes, parameters)
            step += 1
            if stage.ema is not None:
                stage.ema.update(stage.model, step)
            yield Update(step, epoch, loss, terms)


def _epochs(stage: StageTrainer, done: int) -> Iterator[tuple[int, Iterator[list[Any]]]]:
    """Yield each epoch with the batches of its steps, from the step after ``done`` on."""
    passes, dataset = stage.stage.accumulate, stage.run.data.train
    while done < stage.steps:
        epoch, within = divmod(done, stage.epoch)
        # A prepared loader hands its number on to the dataset whenever it is iterated.
        number = stage.index * _EPOCHS + epoch
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(number)
        loader = stage.loader
        loader.set_epoch(number)
        if within:
            loader = stage.accelerator.skip_first_batches(loader, within * passes)
            loader.set_epoch(number)
        left = min(stage.epoch - within, stage.steps - done)
        yield epoch, _grouped(loader, passes, left, stage.stage.name)
        done += left


def _grouped(loader: Any, passes: int, steps: int, stage: str) -> Iterator[list[Any]]:
    """Yield ``steps`` lists of ``passes`` batches."""
    batches = iter(loader)
    for _ in range(steps):
        group = list(itertools.islice(batches, passes))
        if len(group) < passes:
            raise InputError(
                f"stage {stage}: the dataset ended before the epoch did: it has fewer images "
                "than it said"
            )
        yield group


def _update(
    stage: StageTrainer, step: int, passes: list[Any], parameters: list[nn.Parameter]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make an update; return the mean loss and terms of its passes."""
    accelerator, clip = stage.accelerator, stage.stage.optimizer.clip
    total: Tensor | None = None
    sums: dict[str, Tensor] = {}
    for number, (images, labels) in enumerate(passes):
        stage.reseed(step, number)
        if stage.mix is not None:
            images, labels = stage.mix(images, labels)
        images = stage.inputs(images)
        with accelerator.accumulate(stage.called):
            loss, terms = stage.called(images, labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients and clip:
                accelerator.clip_grad_norm_(parameters, clip)
            stage.optimizer.step()
            stage.optimizer.zero_grad()
        share = loss.detach() / len(passes)
        total = share if total is None else total + share
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term / len(passes)
    assert total is not None
    return total, sums
