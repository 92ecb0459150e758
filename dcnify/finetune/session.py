"""Fine-tune an artifact: its model and images in, a trained artifact out."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data import resolve_model_data_config
from torch import nn

from dcnify.artifact import Artifact, Source, open_source, read_artifact
from dcnify.artifact.layout import TRAINING
from dcnify.artifact.load import load_record
from dcnify.artifact.original_source import recorded_source, swaps_between
from dcnify.data import random_state
from dcnify.data.labelled import Labelled
from dcnify.data.statistics import expect
from dcnify.errors import InputError
from dcnify.finetune.checkpoints import Checkpoints, TrainingState
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Looked, Reporter, Say, Watch
from dcnify.finetune.parallel.processes import from_main, join
from dcnify.finetune.run import TrainingRun, learns_from_original
from dcnify.finetune.run_folder import (
    CHECKPOINTS,
    METRICS,
    TENSORBOARD,
    begin,
    check_target,
    describe_run,
    find_checkpoint,
)
from dcnify.finetune.score import Score
from dcnify.finetune.spec import Options, TrainSpec
from dcnify.finetune.stages import stages_of, with_handover
from dcnify.finetune.summary import Summary, finish
from dcnify.finetune.training.loop import keep_best, train_stage
from dcnify.finetune.training.stage import StageTrainer
from dcnify.finetune.training.stage_checks import check_stages
from dcnify.recipe.finetune.presets import usual_stages
from dcnify.recipe.finetune.section import Finetune


def train(
    spec: TrainSpec,
    *,
    watch: Watch | None = None,
    looked: Looked | None = None,
    say: Say | None = None,
) -> Summary:
    """Carry out a request; arguments and exceptions are those of `finetune`."""
    spec.data.check()
    record = read_artifact(spec.artifact)
    return finetune(
        spec.artifact,
        spec.data.open,
        spec.folder,
        stages_of(
            record,
            spec.recipe,
            spec.overrides,
            say or _silent,
            usual_stages(labelled=spec.data.images is None),
        ),
        teacher=open_source(spec.teacher) if spec.teacher is not None else None,
        options=spec if spec.crop_pct or not spec.data.builtin else replace(spec, crop_pct=1.0),
        watch=watch,
        looked=looked,
        say=say,
    )


def finetune(
    artifact: str | os.PathLike[str],
    data: Labelled | Callable[[int | None, str], Labelled],
    out: str | os.PathLike[str],
    plan: Finetune | None = None,
    *,
    teacher: Source | None = None,
    options: Options | None = None,
    watch: Watch | None = None,
    looked: Looked | None = None,
    say: Say | None = None,
) -> Summary:
    """Train a converted model, stage by stage, and write it as an artifact.

    Under ``torchrun`` or ``accelerate launch`` every process calls it with the same arguments.

    Args:
        artifact: a path that `dcnify.save` wrote to.
        data: images with labels or without (`open_labelled`, `open_unlabelled`), or a function that
            opens them, given the number of classes (None for a model without a classifier) and the
            images' mode, ``RGB`` or ``L``.
        out: a folder for the artifact; its sub-folder ``finetune`` gets checkpoints and metrics.
        plan: the stages; by default those of the artifact's recipe, else ``align`` and ``recover``,
            or ``distil`` without labels.
        teacher: the model from before the conversion; by default the artifact names it.
        options: how the training runs.
        watch: progress callback.
        looked: called with each validation: stage, step, `Score`.
        say: called with remarks, one line each.

    Raises:
        InputError: an argument is wrong; nothing has been trained then.
        StoppedError: the run was interrupted; ``resume`` continues it.
        DcnifyError: the loss became NaN or infinite, or the result cannot be written.
    """
    how = options or Options()
    main = join(cpu=how.cpu).is_main_process
    say = say if say is not None and main else _silent
    record = read_artifact(artifact)
    model, _ = load_record(record, trust_code=how.trust_code)
    config = _input_config(model, record, how)
    dataset = _open_data(data, model, config)
    usual = usual_stages(labelled=dataset.classes is not None)
    plan = with_handover(plan or stages_of(record, say=say, usual=usual), model, say)
    target = from_main(
        lambda: check_target(out, record, resume=how.resume, overwrite=how.overwrite)
    )
    folder = target / TRAINING
    original = _open_original(record, model, plan, teacher, say)
    _to_float32(model, original, say)
    swapped = [swap.site.path for swap in record.plan.swaps]
    check_stages(plan, model, swapped, dataset, config, cpu=how.cpu)
    about = describe_run(record, dataset, config, plan)
    checkpoints = Checkpoints(folder / CHECKPOINTS, say)
    checkpoint, state = None, TrainingState()
    if how.resume:
        checkpoint, state = from_main(lambda: find_checkpoint(folder, checkpoints, about, say))
    seed = plan.seed if how.seed is None else how.seed
    how = replace(how, seed=seed, workers=_workers(how))
    with ExitStack() as stack:
        stack.enter_context(random_state.kept())  # the caller's numbers are not touched
        interrupt = Interrupt()
        stack.enter_context(interrupt.listening())
        if main:
            begin(target, about, resume=how.resume)
        reporter = Reporter(
            folder / METRICS if main else None,
            state.lines,
            folder / TENSORBOARD if how.tensorboard else None,
            watch=watch,
            looked=looked,
            say=say,
        )
        stack.callback(reporter.close)
        for part in (dataset.train, dataset.validation):
            if part is not None and hasattr(part, "seed"):
                part.seed = seed
        for line in dataset.warnings:
            say(line)
        run = TrainingRun(
            model=model,
            swaps=record.plan,
            original=original,
            swapped=swapped,
            plan=plan,
            data=dataset,
            config=config,
            example=record.example(),
            folder=folder,
            options=how,
            reporter=reporter,
            checkpoints=checkpoints,
            interrupt=interrupt,
        )
        state = _train_stages(run, checkpoint, state)
        return finish(run, record, state, target, about, main=main)


def _train_stages(run: TrainingRun, checkpoint: Path | None, state: TrainingState) -> TrainingState:
    for over in run.plan.stages[: state.stage]:
        run.finish_handover(over, force=True)  # the checkpoint has the weights that go with it
    run.started = time.perf_counter() - state.seconds
    for index in range(state.stage, len(run.plan.stages)):
        stage = StageTrainer(run, index, checkpoint)
        if checkpoint is None:
            if not state.accuracies:
                state = _measured_before(run, stage, state)
            if index:
                state = replace(state, stage=index, step=0)
                run.checkpoints.write(stage.placement.save, state, main=stage.main)
        checkpoint = None
        state = train_stage(stage, run, state)
        stage.finish()
        state = _after_stage(run, stage.stage.name, state)
        state = replace(state, stage=index + 1, step=0, seconds=run.seconds)
        placement = stage.placement
        del stage
        placement.release()
    return state


def _measured_before(run: TrainingRun, stage: StageTrainer, state: TrainingState) -> TrainingState:
    """Measure the original and the converted model, which may stay the best.

    Without labels the converted model is compared with the original.
    """
    original = None if run.unlabelled else run.original
    for name, model in (("original", original), ("converted", stage.model)):
        if model is None:
            continue
        if name == "original":
            model.to(stage.accelerator.device)
        score = stage.evaluate(model.eval())
        if score is None:
            continue
        run.reporter.validation(name, 0, score)
        state = state.with_score(name, score)
        if name == "converted":
            state = keep_best(stage, state, score)
    return state


def _after_stage(run: TrainingRun, name: str, state: TrainingState) -> TrainingState:
    """Without labels, record that the stage ended with the best weights; say if it gained none."""
    if not run.unlabelled or state.best is None or not from_main(run.best.exists):
        return state
    if state.best_at[0] < state.stage or state.best_at[1] == 0:
        run.reporter.say(
            f"{name} gained nothing on the images left out: the weights are those from before it"
        )
    return state.with_score(name, Score(state.measure, state.best, state.best_distance))


def _open_original(
    record: Artifact, model: nn.Module, plan: Finetune, teacher: Source | None, say: Say
) -> nn.Module | None:
    """Open the model from before the conversion, as a separate instance.

    Raises `InputError` if a stage learns from it, and it cannot be opened.
    """
    try:
        opened = teacher or recorded_source(record, "name it with --teacher")
        swaps_between(record, model, opened)
        return opened.model
    except InputError as error:
        needing = [stage.name for stage in plan.stages if learns_from_original(stage)]
        if teacher is not None or needing:
            words = f" (stage {needing[0]} learns from it)" if needing else ""
            raise InputError(f"{error}{words}") from error
        say(f"the original's accuracy is not measured: {error}")
        return None


def _open_data(
    data: Labelled | Callable[[int | None, str], Labelled],
    model: nn.Module,
    config: dict[str, Any],
) -> Labelled:
    """Open the images; a model without a classifier has no labelled ones to validate on."""
    classes = getattr(model, "num_classes", None) or None
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    dataset = data(classes, mode) if callable(data) else data
    if classes is None and dataset.classes is not None:
        return replace(dataset, validation=None)
    return dataset


def _to_float32(model: nn.Module, original: nn.Module | None, say: Say) -> None:
    """Cast weights in half precision, which is too coarse for the steps of an optimizer."""
    dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
    if dtypes <= {torch.float32}:
        return
    words = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    say(f"the weights are {words}: trained, and written, in float32")
    model.float()
    if original is not None:
        original.float()


def _input_config(model: nn.Module, record: Artifact, options: Options) -> dict[str, Any]:
    """Return timm's data config of the model, at the image size that it was converted at."""
    if any(options.statistics):
        expect(model, options.statistics.known())
    config = {**resolve_model_data_config(model), "input_size": record.input_shape[1:]}
    if options.crop_pct is not None:
        config["crop_pct"] = options.crop_pct
    return config


def _workers(options: Options) -> int:
    if options.workers is not None:
        return options.workers
    if options.cpu or not torch.cuda.is_available():
        return 0  # workers would compete with the model for the cores
    return min(8, os.cpu_count() or 1)


def _silent(line: str) -> None:
    """Say nothing."""
