"""The data of a stage: timm's loaders, transforms and mixing over a dataset."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from timm.data import Mixup, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dcnify.data.statistics import by_channel
from dcnify.errors import InputError
from dcnify.finetune.training.augmentation import check_policy, guard, try_out
from dcnify.recipe.finetune.section import Augment, Stage


def training_loader(
    dataset: Dataset[Any], stage: Stage, data: dict[str, Any], workers: int
) -> DataLoader:
    """Load the images in random order, a batch for each pass; a last, smaller batch is dropped.

    ``data`` describes the model's input, as `timm.data.resolve_model_data_config` does. Raises
    `InputError` if there are fewer images than a batch, or they cannot be augmented so.
    """
    augment: Augment = stage.augment
    check_batch(dataset, stage)
    if augment.auto is not None:
        check_policy(augment.auto)
    loader = _created(
        dataset,
        input_size=data["input_size"],
        batch_size=stage.batch_size // stage.accumulate,
        is_training=True,
        re_prob=augment.erase,
        scale=augment.crop_scale,
        ratio=augment.crop_ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.auto,
        **_shared(data, workers),
    )
    transform = loader.dataset.transform  # type: ignore[attr-defined]  # set by create_loader
    guard(transform)
    try_out(transform, data["input_size"][0])
    return loader


def check_batch(dataset: Dataset[Any], stage: Stage) -> None:
    """Raise `InputError` if the dataset has fewer images than a batch."""
    if isinstance(dataset, IterableDataset):
        return
    count = len(dataset)  # type: ignore[arg-type]  # map-style, so it has a length
    if count < stage.batch_size:
        raise InputError(
            f"stage {stage.name}: a batch of {stage.batch_size} is larger than the dataset, which "
            f"has {count} images"
        )


def validation_loader(
    dataset: Dataset[Any], batch_size: int, data: dict[str, Any], workers: int
) -> DataLoader:
    """Load all images in order, cropped as in the model's own evaluation."""
    return _created(
        dataset,
        input_size=data["input_size"],
        batch_size=batch_size,
        is_training=False,
        crop_pct=data.get("crop_pct"),
        crop_mode=data.get("crop_mode"),
        **_shared(data, workers),
    )


def mixing(augment: Augment, classes: int | None) -> Mixup | None:
    """Return timm's mixup and CutMix, which make soft labels; None if the stage has neither.

    Images without labels have no ``classes``.
    """
    if not augment.mixup and not augment.cutmix:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_prob,
        label_smoothing=augment.smoothing,
        num_classes=classes or 1,
    )


def label_loss(augment: Augment) -> nn.Module:
    """Return cross-entropy for the kind of labels that ``augment`` makes."""
    if augment.mixup or augment.cutmix:
        return SoftTargetCrossEntropy()
    if augment.smoothing:
        return LabelSmoothingCrossEntropy(augment.smoothing)
    return nn.CrossEntropyLoss()


def steps_of(stage: Stage, loader: DataLoader) -> tuple[int, int]:
    """Return the number of updates in the stage and in one epoch.

    Raises `InputError` if the stage has epochs, and the dataset is a stream of unknown length.
    """
    try:
        epoch = max(1, len(loader) // stage.accumulate)
    except TypeError:
        if stage.steps is None:
            raise InputError(
                f"stage {stage.name}: the dataset does not say how many images it has: "
                "say steps instead of epochs"
            ) from None
        return stage.steps, stage.steps
    return stage.steps or max(1, round((stage.epochs or 0) * epoch)), epoch


def _created(dataset: Dataset[Any], **how: Any) -> DataLoader:
    loader = create_loader(dataset, **how)
    if loader.num_workers:
        loader.worker_init_fn = partial(_begin_worker, loader.worker_init_fn)
    return loader


def _begin_worker(usual: Callable[[int], None], worker: int) -> None:
    """Keep workers from signals to the process group: the training still needs them."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    usual(worker)


def _shared(data: dict[str, Any], workers: int) -> dict[str, Any]:
    return {
        "interpolation": data.get("interpolation", "bicubic"),
        "mean": by_channel(data["mean"], data["input_size"][0]),
        "std": by_channel(data["std"], data["input_size"][0]),
        "num_workers": workers,
        "use_prefetcher": False,
        "persistent_workers": workers > 0,
    }
