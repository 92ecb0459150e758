"""Between the steps of a stage: reports, validation, checkpoints, being told to stop."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from timm.utils import distribute_bn
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.finetune.interrupt import StoppedError
from dcnify.finetune.metrics import Beat, memory_of
from dcnify.finetune.position import Position
from dcnify.finetune.training.optimizer import rates_of

if TYPE_CHECKING:
    from dcnify.finetune.stage import StageRun

BEAT = 10
"""Steps between two reports, and between looks at whether the loss is still a number."""
_PROMPT = 2.0
"""Seconds within which processes ask each other whether one was told to stop."""


class BetweenSteps:
    """Told of every step, it does what is due.

    Args:
        stage: that is trained.
        position: where it begins.
    """

    def __init__(self, stage: StageRun, position: Position) -> None:
        self.of, self.run = stage, stage.run
        self.before = position.seconds
        self.since, self.counted = time.perf_counter(), position.step
        self.apart = 0.0
        self.started = time.perf_counter()
        self.rate = 0.0
        device = stage.accelerator.device
        self.bad = torch.full((), -1, device=device, dtype=torch.long)
        single = stage.accelerator.num_processes == 1
        self.every = 1 if device.type == "cpu" and single else BEAT

    def after(
        self, step: int, epoch: int, loss: Tensor, terms: dict[str, Tensor], position: Position
    ) -> Position:
        """Do what is due after ``step``; returns where the run is now.

        Raises:
            StoppedError: it was asked to stop, and what was done is kept.
            DcnifyError: the loss is no number any more.
        """
        of, run = self.of, self.run
        self.bad = torch.where((self.bad < 0) & ~torch.isfinite(loss), step, self.bad)
        last = step == of.steps
        ends = step % of.epoch == 0 or last
        looks = ends if run.look_every is None else step % run.look_every == 0 or last
        keeps = ends if run.keep_every is None else step % run.keep_every == 0 or last
        beats = step % BEAT == 0 or looks or keeps
        due = beats or step % self.every == 0
        if due:
            self._still_finite(loss)
        stops = self._asked_to_stop() if due or not self._shared() else False
        position = replace(position, step=step)
        if beats or stops:
            self._beat(step, epoch, loss, terms)
        pause = time.perf_counter()
        if looks:
            position = self._look(step, position)
        if keeps or stops:
            position = self._keep(position)
        self.apart += time.perf_counter() - pause
        if stops:
            at = f"stage {of.stage.name}, step {step} of {of.steps}"
            raise StoppedError(f"stopped at {at}; the same command with --resume goes on from here")
        return position

    def _still_finite(self, loss: Tensor) -> None:
        of = self.of
        step = int(of.accelerator.gather(self.bad[None]).max()) if self._shared() else int(self.bad)
        if step < 0:
            return
        rate, amp = rates_of(of.optimizer.param_groups), of.stage.amp
        less = "amp: bf16, or " if amp == "fp16" else ""
        raise DcnifyError(
            f"stage {of.stage.name}, step {step}: the loss is no number any more, at a learning "
            f"rate of {rate:.3g}: try {less}a lower optimizer.lr (--set "
            f"finetune.stages.{of.stage.name}.optimizer.lr={rate / 3:.1g}) or a longer warm-up; "
            "--resume goes on from the last checkpoint"
        )

    def _shared(self) -> bool:
        return self.of.accelerator.num_processes > 1

    def _asked_to_stop(self) -> bool:
        asked = self.run.interrupt.asked
        if not self._shared():
            return asked
        flag = torch.tensor([asked], device=self.of.accelerator.device, dtype=torch.long)
        return bool(self.of.accelerator.gather(flag).max())

    def _beat(self, step: int, epoch: int, loss: Tensor, terms: dict[str, Tensor]) -> None:
        of, run = self.of, self.run
        now = time.perf_counter()
        spent = now - self.since - self.apart
        if step > self.counted:
            self.rate = (step - self.counted) * of.stage.batch_size / max(spent, 1e-9)
        self.since, self.counted, self.apart = now, step, 0.0
        mean = {"loss": loss, **terms}
        if self._shared():
            mean["images/s"] = torch.tensor(self.rate, device=loss.device)
            mean = of.accelerator.reduce(mean, "mean")
            self.rate = float(mean.pop("images/s"))
            self.every = int(min(max(_PROMPT * self.rate / of.stage.batch_size, 1), BEAT))
        values = {name: float(value) for name, value in mean.items()}
        left = (of.steps - step) * of.stage.batch_size + run.images_after(of.index, of.epoch)
        beat = Beat(
            stage=of.stage.name,
            stage_index=of.index,
            stages=len(run.plan.stages),
            epoch=epoch,
            step=step,
            steps=of.steps,
            loss=values.pop("loss"),
            terms=values,
            lr=rates_of(of.optimizer.param_groups),
            images_per_second=self.rate,
            seconds_left=left / max(self.rate, 1e-9),
            memory=memory_of(of.accelerator.device.type),
            blend=of.blend.value,
        )
        if of.accelerator.is_main_process:
            run.metrics.beat(beat)
            run.watch(beat)

    def _look(self, step: int, position: Position) -> Position:
        of, run = self.of, self.run
        if self._shared():  # running averages are each process's own: those of the first count
            distribute_bn(of.looked_at, of.accelerator.num_processes, reduce=False)
        reached = of.accuracy_of(of.looked_at)
        if reached is None:
            return position
        if of.accelerator.is_main_process:
            run.metrics.looked(of.stage.name, step, {"accuracy": reached})
            run.looked(of.stage.name, step, reached)
        if of.blend.over and (position.best is None or reached > position.best):
            position = replace(position, best=reached, best_at=(of.index, step))
            main = of.accelerator.is_main_process
            weights = of.sharing.weights(of.looked_at, here=main)
            if main:
                run.keep_best(weights)
        if step == of.steps:
            named = {**position.accuracies, of.stage.name: reached}
            position = replace(position, accuracies=named)
        return position

    def _keep(self, position: Position) -> Position:
        seconds = self.before + time.perf_counter() - self.started
        lines = self.run.metrics.lines
        position = replace(position, seconds=seconds, lines=lines)
        self.of.keep(position)
        return position
