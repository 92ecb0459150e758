"""Fine-tune a converted model of the study in one way, and say how it went."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inherit_study.conversions import chosen, converted
from inherit_study.models import SUBJECTS as TRAINED
from inherit_study.models import Subject
from inherit_study.tasks import MEAN, STD
from inherit_study.training import BATCH, trained

import dcnify
from dcnify.artifact import Source, read_artifact, save_again
from dcnify.data import open_labelled
from dcnify.finetune import Options, finetune
from dcnify.finetune.score import Score
from dcnify.recipe import load_finetune

SUBJECTS = {"ConvNeXt": "all", "ViT": "half", "InternImage": "all"}
"""Which layers of which models are converted."""
SHARE = 6
"""Fine-tuning takes the steps that trained the original, divided by this."""
_ALIGN = 0.15
"""Of the steps, those of the stage that trains the new layers alone."""
_SETTINGS = (
    "batch_size=64",
    "augment=none",
    "optimizer.lr=2.0e-3",
    "optimizer.offset_lr=1.0",
    "ema=0.99",
)


@dataclass(frozen=True)
class Trial:
    """Stages, and what is changed of ``recover``."""

    presets: str
    changes: tuple[str, ...] = ()
    images: int | None = None
    """To train on; by default as many as the original saw, so that none comes twice."""
    only: str | None = None
    """The one model that it is tried on."""


_LABELS = ("losses={labels: 1}",)
VARIED = {
    "recover, no features": Trial("recover", ("losses.features=0",)),
    "recover, offset_lr 0.1": Trial("recover", ("optimizer.offset_lr=0.1",)),
    "recover, lr 1e-3": Trial("recover", ("optimizer.lr=1.0e-3",)),
}
"""One thing changed; not drawn."""
STAGES = {
    "labels": Trial("recover", _LABELS),
    "recover": Trial("recover"),
    "align, recover": Trial("align,recover"),
    "labels, 2,000 images": Trial("recover", _LABELS, 2000, "ConvNeXt"),
    "align, recover, 2,000 images": Trial("align,recover", (), 2000, "ConvNeXt"),
    **VARIED,
}
"""By the name that the table uses."""
LOOK = 50


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def finetuned(name: str, stages: str, seed: int, folder: Path) -> dict[str, Any]:
    """One fine-tuning: accuracies in shares of 1, by step."""
    subject = next(one for one in TRAINED if one.name == name)
    original = trained(subject, seed, folder / "models", say)
    steps = subject.images // BATCH // SHARE
    trial = STAGES[stages]
    first = round(_ALIGN * steps) if "align" in trial.presets else 0
    overrides = [f"stages.recover.{one}" for one in (*_SETTINGS, *trial.changes)]
    overrides.append(f"stages.recover.steps={steps - first}")
    if first:
        overrides.append(f"stages.align.steps={first}")
    out = folder / "finetune" / "runs" / f"{name} {stages} {seed}"
    shutil.rmtree(out, ignore_errors=True)
    curve: list[tuple[int, float]] = []
    before = {"align": 0, "recover": first}

    def looked(stage: str, step: int, reached: Score) -> None:
        if stage in before:
            curve.append((before[stage] + step, reached.value))

    summary = finetune(
        _start(subject, seed, folder),
        lambda classes, mode: open_labelled(
            "builtin:cluttered-digits",
            classes=classes,
            mode=mode,
            count=trial.images or subject.images,
        ),
        out,
        load_finetune(trial.presets, overrides),
        teacher=Source(original, None, f"the trained {name}", None),
        options=Options(seed=seed, cpu=True, crop_pct=1.0, look_every=LOOK, keep_every=10**6),
        looked=looked,
    )
    return {
        "subject": name,
        "sites": SUBJECTS[name],
        "stages": stages,
        "seed": seed,
        "original": summary.original,
        "converted": summary.converted,
        "finetuned": summary.finetuned,
        "trained for": subject.images // BATCH,
        "steps": steps,
        "within one point after": _reached(curve, summary.original - 0.01, summary.converted),
        "seconds": summary.seconds,
        "curve": curve,
    }


def _reached(curve: list[tuple[int, float]], wanted: float, converted: float) -> int | None:
    """The first step at which the accuracy was as good; None if it never was."""
    return next((step for step, reached in [(0, converted), *curve] if reached >= wanted), None)


def _start(subject: Subject, seed: int, folder: Path) -> Path:
    """The converted model, as an artifact that says how its images are normalised."""
    sites = SUBJECTS[subject.name]
    path = folder / "finetune" / "starts" / f"{subject.name} {sites} {seed}"
    if path.exists():
        return path
    made = folder / "converted" / f"{subject.name} {sites} fit+calibrate {seed}"
    if not made.exists():
        model = trained(subject, seed, folder / "models", say)
        paths = chosen(model, subject, sites)
        dcnify.save(converted(model, subject, paths, "fit+calibrate", seed), made)
    record, model = read_artifact(made), dcnify.load(made)
    normalised = {"mean": (MEAN,) * 3, "std": (STD,) * 3}
    model.pretrained_cfg = {**model.pretrained_cfg, **normalised}
    return save_again(record, model, record.plan, path)
