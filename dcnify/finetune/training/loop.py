"""The loop of a stage: updates, and between them reports, validation and checkpoints as due."""

import time
from dataclasses import replace

import torch
from timm.utils import distribute_bn
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.finetune.checkpoints import TrainingState
from dcnify.finetune.interrupt import StoppedError
from dcnify.finetune.metrics import StepMetrics, peak_memory
from dcnify.finetune.run import TrainingRun
from dcnify.finetune.score import Score
from dcnify.finetune.training.optimizer import rates_of
from dcnify.finetune.training.stage import StageTrainer
from dcnify.finetune.training.updates import Update, updates

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
    name, options, shared = stage.stage.name, run.options, stage.shared
    speed = Speed(stage, state.step)
    bad = torch.full((), -1, device=stage.accelerator.device, dtype=torch.long)
    for update in updates(stage, state.step):
        step = update.step
        bad = torch.where((bad < 0) & ~torch.isfinite(update.loss), step, bad)
        validates = _is_due(stage, step, stage.look_every)
        saves = _is_due(stage, step, options.keep_every)
        reports = validates or saves or step % REPORT_EVERY == 0
        # To look at the loss, or to ask other processes, makes the CPU wait: not at each step.
        asks = reports or step % speed.steps_between_checks == 0
        if asks:
            _check_loss(stage, bad)
        stops = run.interrupt.asked if not shared else asks and _any(stage, run.interrupt.asked)
        state = replace(state, step=step)
        if reports or stops:
            run.reporter.step(_metrics(stage, run, update, speed))
        paused = time.perf_counter()
        if validates:
            state = _validate(stage, run, state)
        if saves or stops:
            state = replace(state, seconds=run.seconds, lines=run.reporter.lines)
            run.checkpoints.write(stage.placement.save, state, main=stage.main)
        speed.paused += time.perf_counter() - paused
        if stops:
            at = f"stage {name}, step {step} of {stage.steps}"
            raise StoppedError(f"stopped at {at}; the same command with --resume goes on from here")
    return state


class Speed:
    """Measures the images per second of a stage from ``step`` on, apart from pauses."""

    def __init__(self, stage: StageTrainer, step: int) -> None:
        self._stage, self._step, self._since = stage, step, time.perf_counter()
        self.paused = 0.0
        """Seconds spent on validation and checkpoints since the last measurement."""
        self.images_per_second = 0.0
        alone_on_cpu = stage.accelerator.device.type == "cpu" and not stage.shared
        self.steps_between_checks = 1 if alone_on_cpu else REPORT_EVERY

    def measure(self, step: int) -> None:
        """Measure since the last call; the mean of all processes, which all call it."""
        now, batch = time.perf_counter(), self._stage.stage.batch_size
        if step > self._step:
            seconds = max(now - self._since - self.paused, 1e-9)
            self.images_per_second = (step - self._step) * batch / seconds
        self._since, self._step, self.paused = now, step, 0.0
        if self._stage.shared:
            accelerator = self._stage.accelerator
            mine = torch.tensor(self.images_per_second, device=accelerator.device)
            self.images_per_second = float(accelerator.reduce(mine, "mean"))
            steps = _STOP_WITHIN * self.images_per_second / batch
            self.steps_between_checks = int(min(max(steps, 1), REPORT_EVERY))


def _is_due(stage: StageTrainer, step: int, every: int | None) -> bool:
    """Whether a multiple of ``every`` steps, by default an epoch, or the stage is over."""
    return step == stage.steps or step % (stage.epoch if every is None else every) == 0


def _check_loss(stage: StageTrainer, bad: Tensor) -> None:
    """Raise `DcnifyError` if the loss became NaN or infinite, in any process."""
    step = int(stage.accelerator.gather(bad[None]).max())
    if step < 0:
        return
    name, rate = stage.stage.name, rates_of(stage.optimizer.param_groups)
    precision = "amp: bf16, or " if stage.stage.amp == "fp16" else ""
    raise DcnifyError(
        f"stage {name}, step {step}: the loss became NaN or infinite, at a learning rate of "
        f"{rate:.3g}: try {precision}a lower optimizer.lr (--set "
        f"finetune.stages.{name}.optimizer.lr={rate / 3:.1g}) or a longer warm-up; "
        "--resume goes on from the last checkpoint"
    )


def _any(stage: StageTrainer, flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    mine = torch.tensor([flag], device=stage.accelerator.device, dtype=torch.long)
    return bool(stage.accelerator.gather(mine).max())


def _metrics(stage: StageTrainer, run: TrainingRun, update: Update, speed: Speed) -> StepMetrics:
    """Measure; the losses are means over all processes, which all call it."""
    mean = stage.accelerator.reduce({"loss": update.loss, **update.terms}, "mean")
    values = {name: float(value) for name, value in mean.items()}
    speed.measure(update.step)
    left = (stage.steps - update.step) * stage.stage.batch_size
    for later in run.plan.stages[stage.index + 1 :]:  # as if its epochs had as many images
        images = stage.epoch * stage.stage.batch_size
        steps = later.steps or round((later.epochs or 0) * images / later.batch_size)
        left += steps * later.batch_size
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
    """Measure the model, and keep the weights if it is the best so far."""
    model, name = stage.result, stage.stage.name
    if stage.shared:  # running averages differ by process: take those of the first
        distribute_bn(model, stage.accelerator.num_processes, reduce=False)
    score = stage.evaluate(model)
    if score is None:
        return state
    run.reporter.validation(name, state.step, score)
    state = keep_best(stage, state, score)
    return state.with_score(name, score) if state.step == stage.steps else state


def keep_best(stage: StageTrainer, state: TrainingState, score: Score) -> TrainingState:
    """Write the weights if their score is the best so far, and return the state with it."""
    better = state.with_best(score, stage.index) if stage.handover.over else None
    if better is None:
        return state
    weights = stage.placement.weights(stage.result, here=stage.main)
    if stage.main:
        stage.run.save_best(weights)
    return better
