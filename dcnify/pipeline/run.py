"""Carry a whole recipe out in one folder, and skip what is there from an earlier call."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcnify.artifact import Artifact, Source, read_artifact, save
from dcnify.artifact.layout import CONFIG, TRAINING
from dcnify.bench import ModelBench, settle_models
from dcnify.errors import DcnifyError, InputError
from dcnify.files import write_file
from dcnify.finetune import CURVE, METRICS, Options, StepMetrics, finetune
from dcnify.finetune.parallel.fsdp import check_settings
from dcnify.finetune.run_folder import is_begun
from dcnify.finetune.training.augmentation import check_policy
from dcnify.finetune.training.loaders import check_batch
from dcnify.pipeline.page import page
from dcnify.pipeline.timing import time_artifact
from dcnify.recipe import Finetune, HandOver, Recipe, load_finetune
from dcnify.report import write_plot, write_training_curve
from dcnify.surgery import convert

if TYPE_CHECKING:
    from dcnify.data import ImageBatch
    from dcnify.data.labelled import Labelled

CONVERTED_AT, FINETUNED_AT, BENCH, REPORT, PAGE, FIDELITY = (
    "converted",
    "finetuned",
    "bench.json",
    "report.json",
    "report.md",
    "fidelity.png",
)
_OURS = (CONVERTED_AT, FINETUNED_AT, BENCH, REPORT, PAGE, FIDELITY, CURVE)
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What is to be done."""

    recipe: Recipe
    source: Source
    """Opened; converted in place, so it is opened again where it is needed as it was."""
    reopen: Callable[[], Source]
    """Opens the source anew: the original, beside the converted model."""
    example: torch.Tensor
    """(1, C, H, W) of what the model takes."""
    images: ImageBatch | None
    """To measure fidelity on, and to calibrate; photographs by default."""
    data: Callable[[int | None, str], Labelled]
    """Opens the labelled images, given the number of classes and the images' mode."""
    out: Path
    seed: int = 0
    batch: int = 8
    """Images at once that are timed."""
    seconds: float | None = None
    """Of timing; 2 on CUDA and 5 on a CPU where it is None."""
    options: Options = field(default_factory=Options)
    """Of the fine-tuning."""


@dataclass(frozen=True)
class Outcome:
    """What was done, as in ``report.json``."""

    folder: Path
    conversion: dict[str, Any]
    """The report of the conversion."""
    finetuning: dict[str, Any]
    """Summary of the fine-tuning."""
    bench: dict[str, Any]
    skipped: tuple[str, ...]
    """What was there already."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "conversion": self.conversion,
            "finetune": self.finetuning,
            "bench": self.bench,
            "skipped": list(self.skipped),
        }


def run(
    asked: Asked,
    *,
    step: Step | None = None,
    watch: Callable[[StepMetrics], None] | None = None,
    looked: Callable[[str, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Convert, fine-tune, time and report, each where it is not there yet.

    Args:
        asked: what.
        step: hears of the conversion: description, steps done and in all.
        watch: hears of the training.
        looked: hears of its validations.
        say: hears remarks.

    Raises:
        InputError: something given is wrong, or the folder holds the work of another recipe.
        DcnifyError: as `dcnify.finetune.finetune`.
    """
    say = say or (lambda text: None)
    out, skipped = Path(os.path.realpath(asked.out)), []
    stages = asked.recipe.finetune or load_finetune("align,recover")
    bench = settle_models(
        batch=asked.batch, device="cpu" if asked.options.cpu else None, seconds=asked.seconds
    )
    check_settings()
    _check_folder(out, asked)
    data = _checked_data(asked, stages)
    _clear(out, asked)
    converted, trained = out / CONVERTED_AT, out / FINETUNED_AT
    if (converted / CONFIG).is_file():
        _check_conversion(converted, asked)
        skipped.append(CONVERTED_AT)
    else:
        result = convert(
            asked.source.model,
            asked.recipe,
            asked.example,
            calibration=asked.images,
            seed=asked.seed,
            progress=step,
        )
        save(result, converted, source=asked.source)
    if (trained / CONFIG).is_file():
        _check_training(trained, stages, data)
        skipped.append(FINETUNED_AT)
    else:
        finetune(
            converted,
            data,
            trained,
            stages,
            teacher=asked.reopen(),
            options=replace(asked.options, resume=is_begun(trained), overwrite=False),
            watch=watch,
            looked=looked,
            say=say,
        )
    record = read_artifact(trained)
    timed = _read(out / BENCH) if FINETUNED_AT in skipped else {}
    if _is_timed_so(timed, asked, bench):
        skipped.append(BENCH)
    else:
        timed = _timed(asked, record, bench)
        _write(out / BENCH, timed)
    outcome = Outcome(
        folder=out,
        conversion=read_artifact(converted).report,
        finetuning=record.report["finetune"][-1],
        bench=timed,
        skipped=tuple(skipped),
    )
    pictures = _drawn(out, outcome, say)
    _write(out / REPORT, outcome.to_dict())
    text = page(asked.recipe, asked.source.spec, outcome.to_dict(), pictures)
    write_file(out / PAGE, lambda path: path.write_text(text, "utf-8"), True)
    return outcome


def _check_folder(out: Path, asked: Asked) -> None:
    """
    Raises:
        InputError: it is a file, or holds something else, the source maybe.
    """
    source = Path(os.path.realpath(asked.source.spec))
    if source.exists() and source.is_relative_to(out):
        raise InputError(f"{asked.source.spec} lies in {asked.out}: choose another folder")
    if out.is_file():
        raise InputError(f"{asked.out} is a file; a run is written to a folder")
    found = sorted(one.name for one in out.iterdir()) if out.is_dir() else []
    strange = [name for name in found if name not in _OURS]
    if strange:
        raise InputError(
            f"{asked.out} holds something else ({', '.join(strange[:3])}): choose another folder"
        )


def _checked_data(asked: Asked, stages: Finetune) -> Labelled:
    """The images; what would be refused after the conversion is refused before it.

    Raises:
        InputError: there are no such images, too few for a stage, or it changes them in a way that
            timm does not know.
    """
    classes = getattr(asked.source.model, "num_classes", None) or None
    data = asked.data(classes, "L" if asked.example.shape[1] == 1 else "RGB")
    for stage in stages.stages:
        check_batch(data.train, stage)
        if stage.augment.auto is not None:
            try:
                check_policy(stage.augment.auto)
            except InputError as error:
                raise InputError(f"stage {stage.name}: {error}") from error
    return data


def _clear(out: Path, asked: Asked) -> None:
    """Begin again where that is asked for."""
    if asked.options.overwrite:
        for one in (out / name for name in _OURS):
            shutil.rmtree(one) if one.is_dir() else one.unlink(missing_ok=True)


def _check_conversion(converted: Path, asked: Asked) -> None:
    """
    Raises:
        InputError: what is there was made from something else.
    """
    record = read_artifact(converted)
    there = Recipe.from_yaml(record.recipe, str(converted / "recipe.yaml"))
    source = record.config["dcnify"].get("source") or {}
    same = {
        "recipe": _swaps(there) == _swaps(asked.recipe),
        "source": source.get("sha256") == asked.source.sha256,
        "seed": record.report.get("seed") == asked.seed,
    }
    _refuse_others(converted, same)


def _check_training(trained: Path, stages: Finetune, data: Labelled) -> None:
    """
    Raises:
        InputError: what is there was trained otherwise.
    """
    told = read_artifact(trained).report["finetune"][-1]
    *before, last = stages.stages  # in which layers hand over, where no stage says so
    handing = last.model_copy(update={"handover": HandOver()})
    either = (stages, stages.model_copy(update={"stages": (*before, handing)}))
    same = {
        "fine-tuning": told["finetune"] in [json.loads(one.model_dump_json()) for one in either],
        "dataset": told["data"] == data.origin,
    }
    _refuse_others(trained, same)


def _refuse_others(path: Path, same: Mapping[str, bool]) -> None:
    for what, is_same in same.items():
        if not is_same:
            raise InputError(
                f"{path} was made with another {what}: pass --overwrite to begin again, or "
                "choose another folder"
            )


def _swaps(recipe: Recipe) -> str:
    """What the recipe does to the model, whatever follows."""
    return recipe.model_copy(update={"finetune": None, "description": ""}).sha256


def _is_timed_so(timed: Mapping[str, Any], asked: Asked, bench: ModelBench) -> bool:
    """Whether what an earlier call has measured is what this one asks for."""
    machine = timed.get("machine")
    return (
        timed.get("shape") == [asked.batch, *asked.example.shape[1:]]
        and "passes" in timed
        and isinstance(machine, dict)
        and machine.get("device") == str(bench.device)
        and asked.seconds in (None, timed.get("seconds"))
    )


def _timed(asked: Asked, record: Artifact, bench: ModelBench) -> dict[str, Any]:
    report, _ = time_artifact(
        record,
        bench,
        against=asked.reopen(),
        size=asked.example.shape[1:],
        trust_code=asked.options.trust_code,
    )
    return report.to_dict()


def _drawn(out: Path, outcome: Outcome, say: Callable[[str], None]) -> list[str]:
    """Names of the pictures that could be drawn."""
    metrics = out / FINETUNED_AT / TRAINING / METRICS
    drawings = {
        FIDELITY: lambda path: write_plot(outcome.conversion, path),
        CURVE: lambda path: write_training_curve(metrics, path),
    }
    made = []
    for name, draw in drawings.items():
        try:
            write_file(out / name, draw, True)
            made.append(name)
        except (DcnifyError, OSError) as error:
            say(f"{name} was not drawn: {error}")
    return made


def _read(path: Path) -> dict[str, Any]:
    """What is there; nothing, if that is not JSON of ours."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2) + "\n"
    write_file(path, lambda place: place.write_text(text, "utf-8"), True)
