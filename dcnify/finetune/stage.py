"""One stage of a fine-tuning: its model, its optimiser and its data, until its steps are done."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dcnify.errors import InputError
from dcnify.finetune.between_steps import BetweenSteps
from dcnify.finetune.parallel.accelerator import create_accelerator
from dcnify.finetune.parallel.sharing import sharing
from dcnify.finetune.position import Position
from dcnify.finetune.run import Run
from dcnify.finetune.training.evaluation import accuracy
from dcnify.finetune.training.handover_schedule import Blend
from dcnify.finetune.training.loaders import (
    label_loss,
    mixing,
    steps_of,
    training_loader,
    validation_loader,
)
from dcnify.finetune.training.objective import Objective
from dcnify.finetune.training.optimizer import create_optimizer, create_schedule, learning_rate
from dcnify.finetune.training.selection import trained_by
from dcnify.surgery.handover import handovers

if TYPE_CHECKING:
    from dcnify.recipe.finetune.section import Stage

_EPOCHS = 10_000
"""More than a stage has: so that no two stages draw alike."""


class StageRun:
    """A stage that is set up: everything but the steps.

    Args:
        run: what all stages share.
        index: which stage, from 0.
        checkpoint: what to go on from, written by the same stage.
    """

    def __init__(self, run: Run, index: int, checkpoint: Path | None) -> None:
        self.run, self.index, self.stage = run, index, run.plan.stages[index]
        stage = self.stage
        seed = _seed(run.seed, index)
        self.accelerator = create_accelerator(stage, seed, cpu=run.cpu)
        self.sharing = sharing(self.accelerator, stage)
        model = self.model = self.sharing.take(run.model)
        if stage.checkpointing:
            model.set_grad_checkpointing(True)
        self.names = trained_by(model, stage.train, list(run.sites.values()))
        _require(model, self.names)
        self.frozen_norms = _frozen_norms(model)
        original = run.original_for(stage, self.accelerator.device)
        self.blend = Blend(model, stage.handover)
        self.ema = self.sharing.average(model)
        objective = Objective(
            model,
            original,
            run.sites,
            stage.losses,
            label_loss(stage.augment),
            partial(self.accelerator.reduce, reduction="mean"),
        )
        # Each process sets the blends by itself; those that another sends would have to be read.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            objective, [f"model.{path}.blend" for path in handovers(model)]
        )
        if stage.compile:
            model.compile()
        rate = learning_rate(stage.optimizer, stage.batch_size)
        optimizer = create_optimizer(model, stage.optimizer, stage.batch_size)
        loader = training_loader(run.data.train, stage, run.config, run.workers)
        self.steps, self.epoch = steps_of(stage, loader)
        self.objective, self.optimizer, self.loader = self.sharing.prepare(
            objective, optimizer, loader, self.ema
        )
        self.own = objective
        self.schedule = create_schedule(self.optimizer, stage.schedule, rate, self.steps)
        self.mix = mixing(stage.augment, run.classes)
        self.validation = None
        if run.data.validation is not None:
            room = max(1, stage.batch_size // stage.accumulate)
            room = -(-room // self.accelerator.num_processes) * self.accelerator.num_processes
            self.validation = self.accelerator.prepare(
                validation_loader(run.data.validation, room, run.config, run.workers)
            )
        if checkpoint is not None:
            self.sharing.load(checkpoint)

    def accuracy_of(self, model: nn.Module) -> float | None:
        """On the validation images; None without."""
        if self.validation is None:
            return None
        last = self.stage.channels_last
        with self.sharing.looking_at(model) as called:
            return accuracy(called, self.validation, self.accelerator, channels_last=last)

    def train(self, position: Position) -> Position:
        """Take the steps that are left, from ``position`` on.

        Raises:
            StoppedError: it was asked to stop, and what was done is kept.
            DcnifyError: the loss is no number any more.
        """
        watch = BetweenSteps(self, position)
        # All of them, frozen ones too: by the whole list accelerate knows what FSDP has shared out.
        parameters = list(self.own.parameters())
        step = position.step
        for epoch, batches in self._epochs(step):
            for passes in batches:
                self._train_mode()
                self.blend.at(step, self.steps, self.ema.module if self.ema else None)
                self.schedule.step_update(step + 0.5)
                loss, terms = self._update(step, passes, parameters)
                step += 1
                if self.ema is not None:
                    self.ema.update(self.model, step)
                position = watch.after(step, epoch, loss, terms, position)
        return position

    def finish(self) -> None:
        """Leave in the run's model what the stage has made: averaged, alone, unwrapped."""
        self.own.release()
        model = self.run.model
        if self.looked_at is not model:
            model.load_state_dict(self.sharing.weights(self.looked_at))
        if getattr(model, "_compiled_call_impl", None) is not None:
            model._compiled_call_impl = None
        if self.stage.checkpointing:
            model.set_grad_checkpointing(False)
        self.run.finish_handover(self.stage)
        self.accelerator.free_memory()

    def keep(self, position: Position) -> None:
        """Write a checkpoint; every process calls it."""
        main = self.accelerator.is_main_process
        self.run.checkpoints.write(self.sharing.save, position, main=main)

    @property
    def looked_at(self) -> nn.Module:
        """The model whose accuracy counts: the averaged one, where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def _train_mode(self) -> None:
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def _epochs(self, done: int) -> Iterator[tuple[int, Iterator[list[Any]]]]:
        """(epoch, batches of each step), from the step after ``done`` steps on."""
        passes, dataset = self.stage.accumulate, self.run.data.train
        while done < self.steps:
            epoch, within = divmod(done, self.epoch)
            # A prepared loader hands its number on to the dataset whenever it is iterated.
            number = self.index * _EPOCHS + epoch
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(number)
            self.loader.set_epoch(number)
            loader = self.loader
            if within:
                loader = self.accelerator.skip_first_batches(loader, within * passes)
                loader.set_epoch(number)
            left = min(self.epoch - within, self.steps - done)
            yield epoch, _grouped(loader, passes, left, self.stage)
            done += left

    def _update(
        self, step: int, passes: list[Any], parameters: list[nn.Parameter]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, sums = None, {}
        for number, (images, labels) in enumerate(passes):
            _reseed(self.run.seed, self.index, step, number, self.accelerator.process_index)
            if self.mix is not None:
                images, labels = self.mix(images, labels)
            if self.stage.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with self.accelerator.accumulate(self.objective):
                loss, terms = self.objective(images, labels)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and self.stage.optimizer.clip:
                    self.accelerator.clip_grad_norm_(parameters, self.stage.optimizer.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            share = loss.detach() / len(passes)
            total = share if total is None else total + share
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term / len(passes)
        assert total is not None
        return total, sums


def _grouped(loader: Any, passes: int, steps: int, stage: Stage) -> Iterator[list[Any]]:
    """As many lists of ``passes`` batches as there are steps."""
    batches = iter(loader)
    for _ in range(steps):
        group = list(itertools.islice(batches, passes))
        if len(group) < passes:
            raise InputError(
                f"stage {stage.name}: the dataset ended before the epoch did: it has fewer images "
                "than it said"
            )
        yield group


def _require(model: nn.Module, names: list[str]) -> None:
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def _frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Layers that would count averages of what they do not learn from."""
    norms = [one for one in model.modules() if hasattr(one, "running_mean")]
    return [one for one in norms if not any(p.requires_grad for p in one.parameters())]


def _seed(*parts: int) -> int:
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _reseed(*parts: int) -> None:
    """What is drawn in a step follows from its number, so that no state is to be kept."""
    torch.manual_seed(_seed(*parts))
    np.random.seed(_seed(*parts, 1))
