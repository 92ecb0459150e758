"""Options of the verbs that train: ``finetune`` and ``run``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dcnify.data import Labelled

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="D",
        help="Labelled images: a folder with train/ and val/, or with one folder per class; "
        "builtin:cluttered-digits; or a dataset as timm names it (hfds/OWNER/NAME, hfids/, tfds/, "
        "wds/, torch/, ImageFolder).",
        show_default=False,
    ),
]
TrainSplit = Annotated[
    str | None,
    typer.Option("--split", help="The part of --data to train on.", show_default=False),
]
ValSplit = Annotated[
    str | None,
    typer.Option("--val-split", help="The part of --data to validate on.", show_default=False),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The folder in which a dataset of --data is.", show_default=False
    ),
]
ImageCount = Annotated[
    int | None,
    typer.Option(
        "--image-count",
        min=1,
        help="How many training images builtin:cluttered-digits has.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        help="Processes that read images; up to 8 with a GPU, none without, by default.",
        show_default=False,
    ),
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU, even where there is a GPU.")]
LookEvery = Annotated[
    int | None,
    typer.Option(
        "--validate-every",
        min=1,
        metavar="STEPS",
        help="Steps between two looks at the validation images; an epoch by default.",
        show_default=False,
    ),
]
KeepEvery = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        min=1,
        metavar="STEPS",
        help="Steps between two checkpoints; an epoch by default.",
        show_default=False,
    ),
]
CropPct = Annotated[
    float | None,
    typer.Option(
        "--crop-pct",
        min=0.01,
        max=1.0,
        help="Share of a validation image's side that the model sees; its own by default, and 1 "
        "for builtin data.",
        show_default=False,
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write events for TensorBoard too.")
]


def opener(
    data: str,
    split: str | None,
    val_split: str | None,
    data_dir: Path | None,
    image_count: int | None,
) -> Callable[[int | None, str], Labelled]:
    """What --data and its options name, once a model says its classes and its images' mode."""
    from dcnify.data import open_labelled

    return lambda classes, mode: open_labelled(
        data,
        split=split,
        val_split=val_split,
        data_dir=data_dir,
        classes=classes,
        mode=mode,
        count=image_count,
    )


def crop_of(asked: float | None, data: str) -> float | None:
    """Builtin images are drawn at their size, and nothing around them is to be cut away."""
    return 1.0 if asked is None and data.startswith("builtin:") else asked
