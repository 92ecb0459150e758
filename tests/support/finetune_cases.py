"""A small converted model with its source on disk, data, and stages, for the fine-tuning tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

import dcnify
from dcnify.artifact import open_source
from dcnify.data import open_labelled
from dcnify.data.dataset import ImageSubset
from dcnify.data.examples import Examples
from dcnify.data.labelled import Labelled
from dcnify.finetune import Options, finetune
from dcnify.recipe import load_finetune

NAME = "convnext_atto"
ARGS = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "num_classes": 10, "patch_size": 2}
DATA = "builtin:cluttered-digits"
QUICK = {
    "losses": "{labels: 1, logits: 0.5, features: 0.5, layers: 0.5}",
    "optimizer": "{lr: 2.0e-3}",
    "augment": "{crop_scale: [0.5, 1], hflip: 0.5, mixup: 0.2, erase: 0.2}",
    "ema": "0.9",
}


class Killed(Exception):
    """What ends a run in the middle of it."""


def converted(folder: Path, *, handover: bool = False, **args) -> Path:
    """An artifact of a small ConvNeXt, whose source lies beside it."""
    torch.manual_seed(0)
    arguments = {**ARGS, "drop_path_rate": 0.2, **args}
    source = folder / "model.safetensors"
    model = timm.create_model(NAME, **arguments)
    save_file(model.state_dict(), source)
    opened = open_source(source, arch=NAME, model_args=arguments)
    recipe = dcnify.Recipe.from_yaml(
        "version: 1\nname: test\nswaps:\n  - name: dw\n    select: {role: depthwise_conv}\n"
        "    replace: {with: dcnv4, group_channels: 8}\n    init: transfer\n"
        f"    handover: {str(handover).lower()}\n"
    )
    result = dcnify.convert(opened.model, recipe, torch.randn(1, 3, 32, 32))
    return dcnify.save(result, folder / "converted", source=opened)


def stages(folder: Path, *written: dict | str, seed: int = 0):
    """A plan of stages, each ``{"name": ..., "steps": ...}`` over `QUICK`, or a line of YAML."""
    lines = []
    for one in written:
        if isinstance(one, str):
            lines.append(f"  - {one}")
            continue
        keys = {**QUICK, **one}
        lines.append("  - {" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}")
    file = folder / "stages.yaml"
    file.write_text(f"seed: {seed}\nstages:\n" + "\n".join(lines) + "\n")
    return load_finetune(str(file))


def digits(classes: int | None, mode: str, count: int) -> Labelled:
    """So many to train on, and 70 to validate on, which no batch divides."""
    data = open_labelled(DATA, classes=classes, mode=mode, count=count)
    seen = data.validation
    few = Examples(ImageSubset(seen.dataset, torch.arange(70)), seen.classes, mode=seen.mode)
    return replace(data, validation=few)


def run(folder: Path, out: str, plan, *, artifact: Path | None = None, count: int = 96, **more):
    """Fine-tune the artifact in ``folder`` on a few digits, on the CPU."""
    heard = {key: more.pop(key) for key in ("watch", "looked", "say", "teacher") if key in more}
    return finetune(
        artifact or folder / "converted",
        lambda classes, mode: digits(classes, mode, count),
        folder / out,
        plan,
        options=Options(**{"cpu": True, "crop_pct": 1.0, **more}),
        **heard,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dcnify.load(path).state_dict()


def same(one: Path, other: Path) -> bool:
    """Whether two artifacts have the same weights, bit for bit."""
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
