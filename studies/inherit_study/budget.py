"""What the steps of a calibration buy: agreement with the original against seconds."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dcnify
from inherit_study.conversions import UNLABELLED, chosen, converted
from inherit_study.models import Subject
from inherit_study.tasks import Task, pixels

STEPS = (
    (0, 0),
    (100, 0),
    (0, 50),
    (0, 100),
    (100, 100),
    (0, 200),
    (0, 400),
)
"""Of each layer, and of the whole model."""


def row_of_steps(
    model: nn.Module, subject: Subject, steps: int, model_steps: int, seed: int
) -> dict[str, Any]:
    """What so many steps keep, on validation images that neither training nor conversion saw.

    Seconds are CPU time of the conversion with its own measurements, in whatever threads it ran.
    """
    task = subject.data()
    paths = chosen(model, subject, "all")
    methods = [step.method for step in dcnify.Recipe.load(subject.recipe).swaps[0].init]
    start = time.process_time()
    result = converted(
        model,
        subject,
        paths,
        "fit+calibrate" if "fit" in methods else "calibrate",
        seed,
        options={"steps": steps, "model_steps": model_steps},
    )
    seconds = time.process_time() - start
    before, after = (_predictions(one, task) for one in (model, result.model))
    return {
        "subject": subject.name,
        "layer steps": steps,
        "model steps": model_steps,
        "seed": seed,
        "images": UNLABELLED,
        "agreement": _share(before.argmax(1) == after.argmax(1)),
        "KL": F.kl_div(after, before, log_target=True, reduction="batchmean").item(),
        "original": _share(before.argmax(1) == task.truth),
        "accuracy": _share(after.argmax(1) == task.truth),
        "CPU seconds": seconds,
    }


@torch.inference_mode()
def _predictions(model: nn.Module, task: Task) -> torch.Tensor:
    """(N, classes) logarithms of probabilities on the validation images."""
    model.eval()
    batches = task.unseen.split(250)
    return torch.cat([model(pixels(images)).float().log_softmax(1) for images in batches])


def _share(hits: torch.Tensor) -> float:
    return hits.double().mean().item()
