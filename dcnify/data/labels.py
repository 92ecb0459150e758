"""Whether the labels of some images are classes of a given model."""

from __future__ import annotations

import torch

from dcnify.data.batch import ImageBatch


def labels_for(batch: ImageBatch, num_classes: int) -> tuple[torch.Tensor | None, str]:
    """The labels of ``batch`` as a model of ``num_classes`` outputs counts them.

    They are its own if there are as many classes. Of ImageNet the folders of some classes will do,
    if they are named by their WordNet ids (n01440764): those have one number in each ImageNet.

    Args:
        batch: images with or without labels.
        num_classes: outputs of the model's classifier; 0 if it has none.

    Returns:
        (N,) int64 and an empty text; or None and the reason, a clause without a full stop.
    """
    labels, classes = batch.labels, batch.classes
    if labels is None:
        return None, batch.unlabelled or "the images have no labels"
    if num_classes < 1:
        return None, "the model has no classes"
    if classes is not None and (found := imagenet_numbers(classes, num_classes)):
        return found[0][labels], ""
    if classes is not None and len(classes) != num_classes:
        return None, f"the images have {len(classes)} classes, the model {num_classes}"
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        return None, f"label {wrong} is not one of the model's {num_classes} classes"
    return labels, ""


def imagenet_numbers(
    classes: tuple[str, ...], num_classes: int
) -> tuple[torch.Tensor, tuple[str, ...]] | None:
    """How the ImageNet of ``num_classes`` classes counts some of them, all named by WordNet ids.

    Returns:
        (classes,), int64: its number by label; and its names by number. None if there is no
        ImageNet of that many classes, or not every class is one of its ids.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    names = tuple(ImageNetInfo(subset).label_names())
    numbers = {name: number for number, name in enumerate(names)}
    if not set(classes) <= numbers.keys():
        return None
    return torch.tensor([numbers[name] for name in classes]), names
