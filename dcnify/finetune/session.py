"""Fine-tune an artifact: from its model and a labelled dataset to an artifact that is trained."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from dcnify._version import __version__
from dcnify.artifact import Artifact, check_output, read_artifact, save_again
from dcnify.artifact.digest import sha256_file
from dcnify.artifact.layout import OURS, TRAINING, WEIGHTS
from dcnify.artifact.load import load_record
from dcnify.artifact.reading import read_safetensors
from dcnify.errors import InputError
from dcnify.finetune.checkpoints import Checkpoints
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Beat, Metrics
from dcnify.finetune.original import Original, original_of
from dcnify.finetune.position import Position
from dcnify.finetune.run import Run, learns_from_original
from dcnify.finetune.selection import trained_by
from dcnify.finetune.stage import StageRun
from dcnify.recipe import Recipe
from dcnify.recipe.finetune import Finetune, HandOver
from dcnify.surgery.handover import handovers

if TYPE_CHECKING:
    from dcnify.artifact import Source
    from dcnify.data.labelled import Labelled

RUN, METRICS, CHECKPOINTS, BOARD, CURVE = (
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "tensorboard",
    "curve.png",
)
_SAME = ("artifact", "weights", "data", "processes", "stages")
"""Of a run that is resumed, what must be as it was."""


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


@dataclass(frozen=True)
class Summary:
    """How a fine-tuning went."""

    artifact: Path
    original: float | None
    """Accuracy on the validation images; None where the original was not at hand."""
    converted: float | None
    finetuned: float | None
    best: float | None
    best_at: str
    """Stage and step of the best."""
    best_artifact: Path | None
    """Where the best was better than the last."""
    stages: dict[str, float]
    """Accuracy at the end of each."""
    seconds: float
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        made = asdict(self)
        for key in ("artifact", "best_artifact"):
            made[key] = str(made[key]) if made[key] is not None else None
        return made


def finetune(
    artifact: str | os.PathLike[str],
    data: Labelled | Callable[[int, str], Labelled],
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
        data: labelled images, or what opens them, given the number of classes and the images'
            mode, ``RGB`` or ``L``.
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
    say = say or (lambda text: None)
    record = read_artifact(artifact)
    model, _ = load_record(record, trust_code=options.trust_code)
    plan = _handing_over(plan or stages_of(record, say), model, say)
    classes = _classes(model, record)
    config = _input_of(model, record, options)
    mode = "L" if config["input_size"][0] == 1 else "RGB"
    dataset = data(classes, mode) if callable(data) else data
    target = _output(out, options)
    folder = target / TRAINING
    original = _original(record, model, plan, teacher, say)
    sites = original.sites if original else {s.site.path: s.site.path for s in record.plan.swaps}
    _check_selections(model, plan, list(sites.values()))
    about = _about(record, dataset, plan)
    checkpoints = Checkpoints(folder / CHECKPOINTS, say)
    at, position = _start(folder, checkpoints, about, options, say)
    main = int(os.environ.get("RANK", "0")) == 0
    with ExitStack() as stack:
        stack.enter_context(_random_state())
        interrupt = stack.enter_context(Interrupt())
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RUN).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        board = folder / BOARD if options.tensorboard and main else None
        metrics = Metrics(folder / METRICS if main else Path(os.devnull), position.lines, board)
        stack.callback(metrics.close)
        run = Run(
            model=model,
            swaps=record.plan,
            original=original.model if original else None,
            sites=sites,
            plan=plan,
            data=dataset,
            config=config,
            classes=classes,
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
        for line in dataset.warnings if main else ():
            say(line)
        position = _stages(run, at, position, original)
        return _close(run, record, position, target, about, main)


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
        run.finish_handover(stage)
    started = time.perf_counter() - position.seconds
    for index in range(position.stage, len(run.plan.stages)):
        stage = StageRun(run, index, at)
        if at is None:
            if not position.accuracies:
                position = _first_look(run, stage, position, original)
            if index:
                position = replace(position, stage=index, step=0)
                run.checkpoints.write(stage.accelerator, position)
        at = None
        position = stage.train(position)
        stage.finish()
        seconds = time.perf_counter() - started
        position = replace(position, stage=index + 1, step=0, seconds=seconds)
    return position


def _first_look(
    run: Run, stage: StageRun, position: Position, original: Original | None
) -> Position:
    """How good the original and the converted model are."""
    reached = {}
    models = {"original": original.model if original else None, "converted": run.model}
    for name, model in models.items():
        if model is None:
            continue
        found = stage.accuracy_of(model.to(stage.accelerator.device).eval())
        if found is not None:
            reached[name] = found
            run.looked(name, 0, found)
            if stage.accelerator.is_main_process:
                run.metrics.looked(name, 0, {"accuracy": found})
    return replace(position, accuracies=reached)


def _close(
    run: Run, record: Artifact, position: Position, target: Path, about: dict[str, Any], main: bool
) -> Summary:
    run.model.to("cpu").eval().requires_grad_(True)
    run.model.to(memory_format=torch.contiguous_format)
    last = position.accuracies.get(run.plan.stages[-1].name)
    stage, step = position.best_at
    better = last is not None and position.best is not None and position.best > last
    summary = Summary(
        artifact=target,
        original=position.accuracies.get("original"),
        converted=position.accuracies.get("converted"),
        finetuned=last,
        best=position.best,
        best_at=f"{run.plan.stages[min(stage, len(run.plan.stages) - 1)].name}, step {step}",
        best_artifact=target / TRAINING / "best" if better and run.best.exists() else None,
        stages={
            s.name: position.accuracies[s.name]
            for s in run.plan.stages
            if s.name in position.accuracies
        },
        seconds=position.seconds,
        skipped=_skipped(run.data),
    )
    if not main:
        return summary
    report = _report(record, about, summary)
    recipe = _recipe(record, run.plan)
    if summary.best_artifact is not None:
        _save_best(run, record, summary.best_artifact, report, recipe)
    save_again(record, run.model, run.swaps, target, report=report, recipe=recipe, overwrite=True)
    run.checkpoints.clear()
    run.best.unlink(missing_ok=True)
    return summary


def _save_best(run: Run, record: Artifact, path: Path, report: dict[str, Any], recipe: str) -> None:
    last = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.load_state_dict(read_safetensors(run.best), strict=False)
    try:
        save_again(record, run.model, run.swaps, path, report=report, recipe=recipe, overwrite=True)
    finally:
        run.model.load_state_dict(last)


def _report(record: Artifact, about: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """The conversion's, whose fidelity was that of other weights, and what came after it."""
    moved = ("sites", "output", "steps")
    before = {key: record.report[key] for key in moved if key in record.report}
    earlier = record.report.get("finetune")
    rest = {key: value for key, value in record.report.items() if key not in moved}
    told = {**about, **summary.to_dict()}
    return {
        **rest,
        "conversion": record.report.get("conversion", before),
        "finetune": [*(earlier if isinstance(earlier, list) else []), told],
    }


def _recipe(record: Artifact, plan: Finetune) -> str:
    recipe = Recipe.from_yaml(record.recipe, f"{record.path}/recipe.yaml")
    return recipe.model_copy(update={"finetune": plan}).to_yaml()


def _output(out: str | os.PathLike[str], options: Options) -> Path:
    """
    Raises:
        InputError: it is a file, or taken, or there is nothing to resume.
    """
    path = Path(os.path.realpath(out))
    if path.suffix in (".pt", ".pth"):
        raise InputError(f"{out}: the output of a fine-tuning is a folder")
    running = (path / TRAINING / RUN).is_file()
    done = (path / WEIGHTS).is_file() and (path / "config.json").is_file()
    if options.resume and not running:
        raise InputError(f"{out} holds no fine-tuning to resume")
    if options.resume and done:
        raise InputError(f"{out} is finished; there is nothing to resume")
    target = check_output(path, options.overwrite)
    if running and not options.resume and not options.overwrite:
        raise InputError(f"{out} holds a fine-tuning: pass --resume to go on, --overwrite to begin")
    if options.overwrite and not options.resume and path.is_dir():
        shutil.rmtree(path / TRAINING, ignore_errors=True)
        for name in OURS:
            with suppress(OSError):
                (path / name).unlink()
    return target


def _start(
    folder: Path,
    checkpoints: Checkpoints,
    about: dict[str, Any],
    options: Options,
    say: Callable[[str], None],
) -> tuple[Path | None, Position]:
    """The checkpoint to go on from, if any, and where that is.

    Raises:
        InputError: what is resumed was another run.
    """
    if not options.resume:
        return None, Position()
    try:
        before = json.loads((folder / RUN).read_text("utf-8"))
        differ = [key for key in _SAME if before[key] != about[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN} cannot be read: begin again with --overwrite") from error
    if differ:
        key = differ[0]
        raise InputError(
            f"{folder.parent} was begun with other {key} ({before[key]}, now {about[key]}): "
            "give the same, or begin again with --overwrite"
        )
    if before.get("finetune") != about["finetune"]:
        say("the settings of the stages differ from those it was begun with; the new ones hold")
    for path, position in checkpoints.newest():
        return path, position
    say("there is no checkpoint yet: beginning from the artifact")
    return None, Position()


def _about(record: Artifact, data: Labelled, plan: Finetune) -> dict[str, Any]:
    weights = record.path / WEIGHTS if record.path.is_dir() else record.path
    stages = [
        [s.name, s.epochs, s.steps, s.batch_size, s.accumulate, list(s.train)] for s in plan.stages
    ]
    return {
        "artifact": str(record.path),
        "weights": sha256_file(weights),
        "data": data.origin,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "stages": json.loads(json.dumps(stages)),
        "finetune": json.loads(plan.model_dump_json()),
        "versions": {
            "dcnify": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }


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


def _check_selections(model: nn.Module, plan: Finetune, swapped: Sequence[str]) -> None:
    for stage in plan.stages:
        try:
            trained_by(model, stage.train, swapped)
        except InputError as error:
            raise InputError(f"stage {stage.name}: {error}") from None


def _classes(model: nn.Module, record: Artifact) -> int:
    classes = getattr(model, "num_classes", None) or record.config.get("num_classes")
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"{record.path}: its model does not say how many classes it has")
    return classes


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


def _skipped(data: Labelled) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for dataset in (data.train, data.validation):
        if hasattr(dataset, "unreadable"):
            found += [(str(name), str(reason)) for name, reason in dataset.unreadable()]
    return tuple(found)


@contextmanager
def _random_state() -> Iterator[None]:
    """The caller's random numbers go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
