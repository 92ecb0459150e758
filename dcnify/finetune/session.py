"""Fine-tune an artifact: from its model and a labelled dataset to an artifact that is trained."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.data import resolve_model_data_config
from torch import nn

from dcnify.artifact import Artifact, read_artifact
from dcnify.artifact.layout import TRAINING
from dcnify.artifact.load import load_record
from dcnify.data import random_state
from dcnify.errors import InputError
from dcnify.finetune.checkpoints import Checkpoints
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Beat, Metrics
from dcnify.finetune.parallel.processes import join, main_says
from dcnify.finetune.position import Position
from dcnify.finetune.run import Run, learns_from_original
from dcnify.finetune.run_folder import (
    BOARD,
    CHECKPOINTS,
    METRICS,
    about_run,
    begin,
    check_target,
    where_it_was,
)
from dcnify.finetune.stage import StageRun
from dcnify.finetune.stage_checks import check_stages
from dcnify.finetune.summary import Summary, close
from dcnify.finetune.teacher import Original, original_of
from dcnify.recipe import Recipe
from dcnify.recipe.finetune.section import Finetune, HandOver
from dcnify.surgery.handover import handovers

if TYPE_CHECKING:
    from dcnify.artifact import Source
    from dcnify.data.labelled import Labelled


@dataclass(frozen=True)
class Options:
    """How a fine-tuning runs, apart from what it does."""

    seed: int | None = None
    """In place of the recipe's."""
    cpu: bool = False
    """Even where there is a GPU."""
    workers: int | None = None
    """Processes that read images; None to choose."""
    look_every: int | None = None
    """Steps between validations; every epoch by default."""
    keep_every: int | None = None
    """Steps between checkpoints; every epoch by default."""
    resume: bool = False
    """Go on where an earlier sitting was."""
    overwrite: bool = False
    """Replace the artifact or the fine-tuning that is there."""
    tensorboard: bool = False
    crop_pct: float | None = None
    """Share of a validation image's side that the model sees; its own by default."""
    trust_code: bool = False
    """Import the code that the artifact names."""


def finetune(
    artifact: str | os.PathLike[str],
    data: Labelled | Callable[[int | None, str], Labelled],
    out: str | os.PathLike[str],
    plan: Finetune | None = None,
    *,
    teacher: Source | None = None,
    options: Options | None = None,
    watch: Callable[[Beat], None] | None = None,
    looked: Callable[[str, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Train what a conversion made, stage by stage, and write it as an artifact.

    Under ``torchrun`` or ``accelerate launch`` every process calls it with the same arguments.

    Args:
        artifact: what `dcnify.save` wrote.
        data: labelled images, or what opens them, given the number of classes (None for a model
            without a classifier) and the images' mode, ``RGB`` or ``L``.
        out: a folder; beside the artifact it gets ``finetune/``, with checkpoints, metrics and
            curves.
        plan: the stages; by default those of the artifact's recipe, else ``align`` and ``recover``.
        teacher: the model from before the conversion; by default what the artifact names.
        options: how it runs.
        watch: hears where the training is.
        looked: hears of every validation: stage, step, accuracy.
        say: hears remarks, one line each.

    Raises:
        InputError: something that was given is wrong; nothing has been trained then.
        StoppedError: it was asked to stop; ``resume`` goes on.
        DcnifyError: the loss is no number any more, or the result cannot be written.
    """
    options = options or Options()
    main = join(cpu=options.cpu).is_main_process
    say = say if say is not None and main else lambda text: None
    record = read_artifact(artifact)
    model, _ = load_record(record, trust_code=options.trust_code)
    plan = _handing_over(plan or stages_of(record, say), model, say)
    config = _input_of(model, record, options)
    dataset = _images(data, model, config)
    target = main_says(
        lambda: check_target(out, record, resume=options.resume, overwrite=options.overwrite)
    )
    folder = target / TRAINING
    original = _original(record, model, plan, teacher, say)
    _in_float32(model, original, say)
    sites = original.sites if original else {s.site.path: s.site.path for s in record.plan.swaps}
    check_stages(plan, model, list(sites.values()), dataset, config, cpu=options.cpu)
    about = about_run(record, dataset, plan)
    checkpoints = Checkpoints(folder / CHECKPOINTS, say)
    at, position = None, Position()
    if options.resume:
        at, position = main_says(lambda: where_it_was(folder, checkpoints, about, say))
    with ExitStack() as stack:
        stack.enter_context(random_state.kept())  # the caller's go on as if nothing was drawn
        interrupt = stack.enter_context(Interrupt())
        if main:
            begin(target, about, resume=options.resume)
        board = folder / BOARD if options.tensorboard and main else None
        metrics = Metrics(folder / METRICS if main else None, position.lines, board)
        stack.callback(metrics.close)
        run = Run(
            model=model,
            swaps=record.plan,
            original=original.model if original else None,
            sites=sites,
            plan=plan,
            data=dataset,
            config=config,
            classes=dataset.classes,
            folder=folder,
            seed=plan.seed if options.seed is None else options.seed,
            cpu=options.cpu,
            workers=_workers(options.workers, options.cpu),
            look_every=options.look_every,
            keep_every=options.keep_every,
            metrics=metrics,
            checkpoints=checkpoints,
            interrupt=interrupt,
            watch=watch or (lambda beat: None),
            looked=looked or (lambda stage, step, reached: None),
            say=say,
        )
        for part in (dataset.train, dataset.validation):
            if part is not None and hasattr(part, "seed"):
                part.seed = run.seed
        for line in dataset.warnings:
            say(line)
        position = _stages(run, at, position, original)
        return close(run, record, position, target, about, main)


def stages_of(record: Artifact, say: Callable[[str], None]) -> Finetune:
    """The ``finetune:`` section of the artifact's recipe, or what is usual."""
    from dcnify.recipe import load_finetune

    recipe = Recipe.from_yaml(record.recipe, f"{record.path}/recipe.yaml")
    if recipe.finetune is not None:
        return recipe.finetune
    say("the artifact's recipe says nothing of fine-tuning: its stages are align and recover")
    return load_finetune("align,recover")


def _stages(run: Run, at: Path | None, position: Position, original: Original | None) -> Position:
    for stage in run.plan.stages[: position.stage]:  # over: what they left of the structure
        run.finish_handover(stage, force=True)  # the checkpoint has the weights that go with it
    started = time.perf_counter() - position.seconds
    for index in range(position.stage, len(run.plan.stages)):
        stage = StageRun(run, index, at)
        if at is None:
            if not position.accuracies:
                position = _first_look(run, stage, position, original)
            if index:
                position = replace(position, stage=index, step=0)
                stage.keep(position)
        at = None
        position = stage.train(position)
        stage.finish()
        seconds = time.perf_counter() - started
        position = replace(position, stage=index + 1, step=0, seconds=seconds)
        sharing = stage.sharing
        del stage
        sharing.let_go()
    return position


def _first_look(
    run: Run, stage: StageRun, position: Position, original: Original | None
) -> Position:
    """How good the original and the converted model are."""
    reached = {}
    models = {"original": original.model if original else None, "converted": stage.model}
    for name, model in models.items():
        if model is None:
            continue
        if name == "original":
            model.to(stage.accelerator.device)
        found = stage.accuracy_of(model.eval())
        if found is not None:
            reached[name] = found
            run.looked(name, 0, found)
            if stage.accelerator.is_main_process:
                run.metrics.looked(name, 0, {"accuracy": found})
    return replace(position, accuracies=reached)


def _original(
    record: Artifact,
    model: nn.Module,
    plan: Finetune,
    teacher: Source | None,
    say: Callable[[str], None],
) -> Original | None:
    """
    Raises:
        InputError: a stage learns from it, and it is not to be had.
    """
    try:
        return original_of(record, model, teacher)
    except InputError as error:
        needing = [stage.name for stage in plan.stages if learns_from_original(stage)]
        if teacher is not None or needing:
            words = f" (stage {needing[0]} learns from it)" if needing else ""
            raise InputError(f"{error}{words}") from error
        say(f"the original's accuracy is not measured: {error}")
        return None


def _handing_over(plan: Finetune, model: nn.Module, say: Callable[[str], None]) -> Finetune:
    """The plan, with a handover in its last stage where layers hand over and no stage says how."""
    layers = handovers(model)
    asked = [stage.name for stage in plan.stages if stage.handover is not None]
    if asked and not layers:
        raise InputError(
            f"stage {asked[0]}: handover: no layer of the artifact hands over; convert with "
            "'handover: true' on a swap"
        )
    if not layers or asked:
        return plan
    *before, last = plan.stages
    say(f"{len(layers)} layers hand over, in stage {last.name} (its handover: is not set)")
    return plan.model_copy(
        update={"stages": (*before, last.model_copy(update={"handover": HandOver()}))}
    )


def _images(
    data: Labelled | Callable[[int | None, str], Labelled],
    model: nn.Module,
    config: dict[str, Any],
) -> Labelled:
    """The images; none for validation where no class is said of them."""
    classes = getattr(model, "num_classes", None) or None
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    dataset = data(classes, mode) if callable(data) else data
    return dataset if classes is not None else replace(dataset, validation=None)


def _in_float32(model: nn.Module, original: Original | None, say: Callable[[str], None]) -> None:
    """Weights in half precision are too coarse for the steps of an optimizer."""
    dtypes = {one.dtype for one in model.parameters() if one.is_floating_point()}
    if dtypes <= {torch.float32}:
        return
    say(f"the weights are {_words(dtypes)}: trained, and written, in float32")
    model.float()
    if original is not None:
        original.model.float()


def _words(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def _input_of(model: nn.Module, record: Artifact, options: Options) -> dict[str, Any]:
    """What timm says of the model's input, at the size that it was converted at."""
    config = {**resolve_model_data_config(model), "input_size": record.input_shape[1:]}
    if options.crop_pct is not None:
        config["crop_pct"] = options.crop_pct
    return config


def _workers(asked: int | None, cpu: bool) -> int:
    if asked is not None:
        return asked
    if cpu or not torch.cuda.is_available():
        return 0  # they would take the cores from the model
    return min(8, os.cpu_count() or 1)
