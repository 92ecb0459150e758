"""The loop of a stage: updates, and between them reports, validation and checkpoints as due."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from timm.utils import distribute_bn

from dcnify.errors import DcnifyError
from dcnify.finetune.interrupt import StoppedError
from dcnify.finetune.metrics import StepMetrics, peak_memory
from dcnify.finetune.run import TrainingRun
from dcnify.finetune.state import TrainingState
from dcnify.finetune.training.optimizer import rates_of
from dcnify.finetune.training.stage import StageTrainer
from dcnify.finetune.training.updates import Update, updates
from dcnify.recipe.finetune.section import Finetune

REPORT_EVERY = 10
"""Steps between two reports."""
_STOP_WITHIN = 2.0
"""Seconds between two times that processes ask each other whether one was told to stop."""


def train_stage(stage: StageTrainer, run: TrainingRun, state: TrainingState) -> TrainingState:
    """Make the updates of a stage that remain, from ``state`` on.

    Raises:
        StoppedError: the run was interrupted; a checkpoint has been written.
        DcnifyError: the loss became NaN or infinite.
    """
    finite, speed = FiniteLoss(stage), Speed(state.step, stage)
    for update in updates(stage, state.step):
        step = update.step
        finite.note(update)
        now = due(step, stage.steps, stage.epoch, run)
        checks = now.report or step % speed.check_every == 0
        if checks:
            finite.check()
        # Processes ask each other only now and then; a single one looks after each step.
        stops = (checks or not _shared(stage)) and _any_process(stage, run.interrupt.asked)
        state = replace(state, step=step)
        if now.report or stops:
            run.reporter.step(_metrics(update, stage, run, speed))
        paused = time.perf_counter()
        if now.validate:
            state = _validate(stage, run, state)
        if now.save or stops:
            state = replace(state, seconds=run.seconds, lines=run.reporter.lines)
            run.checkpoints.write(stage.placement.save, state, main=stage.main)
        speed.paused += time.perf_counter() - paused
        if stops:
            at = f"stage {stage.stage.name}, step {step} of {stage.steps}"
            raise StoppedError(f"stopped at {at}; the same command with --resume goes on from here")
    return state


@dataclass(frozen=True)
class Due:
    """What is due after a step."""

    validate: bool
    save: bool
    report: bool


def due(step: int, steps: int, epoch: int, run: TrainingRun) -> Due:
    """Return what is due after ``step`` of ``steps`` steps, with ``epoch`` steps to an epoch."""
    last = step == steps
    validate, save = (
        last or step % (epoch if every is None else every) == 0
        for every in (run.options.look_every, run.options.keep_every)
    )
    return Due(validate, save, validate or save or step % REPORT_EVERY == 0)


class FiniteLoss:
    """Watches for a loss that is NaN or infinite, without waiting for the GPU at each step."""

    def __init__(self, stage: StageTrainer) -> None:
        self._stage = stage
        self._bad = torch.full((), -1, device=stage.accelerator.device, dtype=torch.long)

    def note(self, update: Update) -> None:
        """Take in the loss of an update."""
        first = (self._bad < 0) & ~torch.isfinite(update.loss)
        self._bad = torch.where(first, update.step, self._bad)

    def check(self) -> None:
        """
        Raises:
            DcnifyError: a loss was NaN or infinite, in any process.
        """
        step = int(self._stage.accelerator.gather(self._bad[None]).max())
        if step < 0:
            return
        stage, rate = self._stage.stage, rates_of(self._stage.optimizer.param_groups)
        precision = "amp: bf16, or " if stage.amp == "fp16" else ""
        raise DcnifyError(
            f"stage {stage.name}, step {step}: the loss became NaN or infinite, at a learning rate "
            f"of {rate:.3g}: try {precision}a lower optimizer.lr (--set "
            f"finetune.stages.{stage.name}.optimizer.lr={rate / 3:.1g}) or a longer warm-up; "
            "--resume goes on from the last checkpoint"
        )


class Speed:
    """Measures images per second, apart from pauses.

    Args:
        step: at which the stage begins or continues.
        stage: that is trained.
    """

    def __init__(self, step: int, stage: StageTrainer) -> None:
        self._stage, self._step, self._since = stage, step, time.perf_counter()
        self.paused = 0.0
        """Seconds spent on validation and checkpoints since the last measurement."""
        self.images_per_second = 0.0
        alone_on_cpu = stage.accelerator.device.type == "cpu" and not _shared(stage)
        self.check_every = 1 if alone_on_cpu else REPORT_EVERY
        """Steps between two checks of the loss, and of whether a process was told to stop."""

    def measure(self, step: int) -> float:
        """Return images per second since the last measurement, in this process."""
        now = time.perf_counter()
        if step > self._step:
            seconds = max(now - self._since - self.paused, 1e-9)
            self.images_per_second = (step - self._step) * self._stage.stage.batch_size / seconds
        self._since, self._step, self.paused = now, step, 0.0
        return self.images_per_second

    def agree(self, images_per_second: float) -> None:
        """Take the mean of all processes for the speed of each."""
        self.images_per_second = images_per_second
        steps = _STOP_WITHIN * images_per_second / self._stage.stage.batch_size
        self.check_every = int(min(max(steps, 1), REPORT_EVERY))


def images_after(plan: Finetune, index: int, epoch: int) -> int:
    """Estimate the images of the stages after ``index``, which has ``epoch`` steps an epoch."""
    images = epoch * plan.stages[index].batch_size
    return sum(
        (stage.steps or round((stage.epochs or 0) * images / stage.batch_size)) * stage.batch_size
        for stage in plan.stages[index + 1 :]
    )


def _metrics(update: Update, stage: StageTrainer, run: TrainingRun, speed: Speed) -> StepMetrics:
    """Measure; every process calls it, and the losses are means over all."""
    mean = {"loss": update.loss, **update.terms}
    speed.measure(update.step)
    if _shared(stage):
        mean["images/s"] = torch.tensor(speed.images_per_second, device=update.loss.device)
        mean = stage.accelerator.reduce(mean, "mean")
        speed.agree(float(mean.pop("images/s")))
    values = {name: float(value) for name, value in mean.items()}
    left = (stage.steps - update.step) * stage.stage.batch_size
    left += images_after(run.plan, stage.index, stage.epoch)
    return StepMetrics(
        stage=stage.stage.name,
        stage_index=stage.index,
        stages=len(run.plan.stages),
        epoch=update.epoch,
        step=update.step,
        steps=stage.steps,
        loss=values.pop("loss"),
        terms=values,
        lr=rates_of(stage.optimizer.param_groups),
        images_per_second=speed.images_per_second,
        seconds_left=left / max(speed.images_per_second, 1e-9),
        memory=peak_memory(stage.accelerator.device.type),
        blend=stage.handover.blend,
    )


def _validate(stage: StageTrainer, run: TrainingRun, state: TrainingState) -> TrainingState:
    """Measure the accuracy, and keep the weights if it is the best so far."""
    model = stage.result
    if _shared(stage):  # running averages differ by process: take those of the first
        distribute_bn(model, stage.accelerator.num_processes, reduce=False)
    accuracy = stage.accuracy(model)
    if accuracy is None:
        return state
    run.reporter.validation(stage.stage.name, state.step, accuracy)
    if stage.handover.over and (state.best is None or accuracy > state.best):
        state = replace(state, best=accuracy, best_at=(stage.index, state.step))
        weights = stage.placement.weights(model, here=stage.main)
        if stage.main:
            run.save_best(weights)
    if state.step == stage.steps:
        named = {**state.accuracies, stage.stage.name: accuracy}
        state = replace(state, accuracies=named)
    return state


def _shared(stage: StageTrainer) -> bool:
    return stage.accelerator.num_processes > 1


def _any_process(stage: StageTrainer, flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    if not _shared(stage):
        return flag
    mine = torch.tensor([flag], device=stage.accelerator.device, dtype=torch.long)
    return bool(stage.accelerator.gather(mine).max())
