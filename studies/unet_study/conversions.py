"""The conversions of the study, and what is measured of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import dcnify
from unet_study.diffusion import drawn, noise_loss, noise_schedule, train, unet
from unet_study.quality import accuracy, classifier, digits, frechet, labelled

Say = Callable[[str], None]
TIMES = torch.tensor([50, 300, 600, 900])
"""Time steps that a conversion is calibrated at: an example's other inputs are repeated."""
SEEN, BATCHES = 512, 96
"""Images that a conversion is given, and batches of four of them that it calibrates on."""
TRAINED, RATE = 4000, 2e-3
TUNED, TUNING_RATE = 200, 5e-4
DRAWN, COMPARED = 1000, 2000
"""Images that are drawn, and real ones that they are compared with."""


@dataclass(frozen=True)
class Conversion:
    """A way to convert the network, and whether it is trained on afterwards."""

    name: str
    overrides: tuple[str, ...] | None = ()
    """Changes of the recipe ``unet``; None converts nothing."""
    tuned: bool = False


def _of(width: str, init: str = "", *others: str) -> tuple[str, ...]:
    calibrated = f"{{method: calibrate, batches: {BATCHES}, steps: 0, model_steps: 0}}"
    init = init or f"[transfer, {calibrated}]"
    replace = "swaps.blocks.replace"
    return (f"{replace}.inner_width={width}", f"swaps.blocks.init={init}", "require=null", *others)


_PUBLISHED = (
    "swaps.blocks.replace.group_channels=16",
    "swaps.blocks.replace.offset_rank=null",
)
CONVERSIONS = (
    Conversion("original", None),
    Conversion("transfer", _of("x2", "transfer")),
    Conversion("unet", _of("x2")),
    Conversion("unet, x1: transfer", _of("x1", "transfer")),
    Conversion("unet, x1", _of("x1")),
    Conversion("unet, x1, groups of 16", _of("x1", "", *_PUBLISHED)),
    Conversion("original, trained on", None, tuned=True),
    Conversion("unet, trained on", _of("x2"), tuned=True),
    Conversion("unet, x1, trained on", _of("x1"), tuned=True),
    Conversion("paper's start, trained on", _of("x2", "paper"), tuned=True),
)


def original(folder: Path, seed: int, say: Say) -> nn.Module:
    """The trained network, from ``folder`` if it is there."""
    file = folder / "models" / f"unet-{seed}.safetensors"
    model = unet(seed)
    if file.exists():
        load_model(model, file)
        return model.eval()
    model = train(model, digits("train", 20_000), TRAINED, RATE, seed, say)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(file))
    return model


def seen() -> Tensor:
    """Noised digits whose time steps are those of `example`, in turn."""
    noise = torch.randn(SEEN, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    times = TIMES.repeat(SEEN // len(TIMES))
    return noise_schedule().add_noise(digits("train", SEEN), noise, times)


def row_of(conversion: Conversion, folder: Path, seed: int, say: Say) -> dict[str, Any]:
    """Convert the network, train it on where that is asked for, and measure it."""
    base = original(folder, seed, say)
    model, row = copy.deepcopy(base), {"model": conversion.name, "seed": seed}
    noisy = seen()
    example = dcnify.Example((noisy[: len(TIMES)], TIMES))
    plan = dcnify.plan(base, dcnify.Recipe.load("unet"), example)
    parameters, flops = plan.model_parameters, plan.model_flops
    if conversion.overrides is not None:
        recipe = dcnify.Recipe.load("unet", conversion.overrides)
        result = dcnify.convert(model, recipe, example, calibration=noisy, seed=seed)
        assert result.report.output is not None
        for swap in result.plan.swaps:
            parameters += swap.parameters - swap.site.parameters
            flops += swap.flops - swap.site.flops
        row["sqnr"] = sum(site.sqnr_db for site in result.report.sites) / len(result.plan.swaps)
        row["seconds"] = sum(result.report.seconds.values())
    if conversion.tuned:
        model = train(model, digits("train", 20_000), TUNED, TUNING_RATE, 100 + seed, say)
    row |= {"parameters": parameters, "flops": flops / len(TIMES)}
    images = drawn(model.eval(), DRAWN)
    file = images_of(folder, conversion.name, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, images.numpy())
    theirs = torch.from_numpy(np.load(images_of(folder, CONVERSIONS[0].name, seed)))
    apart = (images - theirs).square().mean() / theirs.square().mean()
    judge = classifier(folder / "models" / "classifier.safetensors")
    real, _ = labelled("validation", COMPARED)
    return row | {
        "distance": frechet(judge.features(images), judge.features(real)),
        "loss": noise_loss(model, digits("validation", 1000)),
        "relative_error": float(apart.sqrt()),
    }


def images_of(folder: Path, name: str, seed: int) -> Path:
    """Where the images are that a network has drawn. The original's are drawn first."""
    return folder / "drawn" / f"{name} {seed}.npy"


def yardsticks(folder: Path) -> dict[str, float]:
    """The classifier's accuracy, and the distance of training images, and of noise."""
    judge = classifier(folder / "models" / "classifier.safetensors")
    real, labels = labelled("validation", COMPARED)
    others = digits("train", DRAWN)
    noise = torch.rand(others.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = judge.features(real)
    return {
        "accuracy": accuracy(judge, real, labels),
        "training images": frechet(judge.features(others), features),
        "noise": frechet(judge.features(noise), features),
    }
