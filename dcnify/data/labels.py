"""Whether labels are classes of a given model, and whether a model can learn them."""

from collections.abc import Sequence

import torch

from dcnify.data.dataset import ImageDataset, printable
from dcnify.data.images import ImageBatch
from dcnify.errors import InputError

_LISTED = 8
"""Classes that are listed one by one."""


def labels_for(batch: ImageBatch, num_classes: int) -> tuple[torch.Tensor | None, str]:
    """Return the labels of ``batch`` as a model of ``num_classes`` outputs numbers them.

    They are its own if there are as many classes. Of ImageNet the folders of some classes will do,
    if they are named by their WordNet ids (n01440764): those have one number in each ImageNet.

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
    """Number WordNet ids as the ImageNet of ``num_classes`` classes does.

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


def label_problem(label: int | None, name: str, classes: int) -> str:
    """Return what is wrong with the label of one image; empty if it is a class of the model."""
    if label is None:
        return f"{name} has no label that is one class"
    if 0 <= label < classes:
        return ""
    return f"label {label} of {name} is not a class of the model, which has {classes:,}"


def check_labels(dataset: ImageDataset, classes: int) -> None:
    """Raise `InputError` if a label that is known without reading an image is not a class."""
    if dataset.labels is None:
        return
    wrong = ((dataset.labels < 0) | (dataset.labels >= classes)).nonzero().flatten()
    if len(wrong):
        index = int(wrong[0])
        problem = label_problem(int(dataset.labels[index]), dataset.name(index), classes)
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        raise InputError(f"{dataset.origin}: {problem}{more}")


def check_same_classes(train: ImageDataset, validation: ImageDataset) -> None:
    """Raise `InputError` unless both splits number the same classes alike, where they name them."""
    if train.classes is None or validation.classes is None or train.classes == validation.classes:
        return
    for lacking, having in ((train, validation), (validation, train)):
        if missing := sorted({*(having.classes or ())} - {*(lacking.classes or ())}):
            listed = _listed([repr(printable(name)) for name in missing])
            raise InputError(f"{lacking.origin} lacks {listed}, which {having.origin} has")
    pairs = enumerate(zip(train.classes, validation.classes, strict=True))
    number, (one, other) = next(pair for pair in pairs if len(set(pair[1])) > 1)
    raise InputError(
        f"class {number} is {printable(one)!r} in {train.origin} "
        f"and {printable(other)!r} in {validation.origin}"
    )


def check_classes_in_training(train: ImageDataset, validation: ImageDataset) -> None:
    """Raise `InputError` if a validation image shows a class that no training image shows."""
    if train.labels is None or validation.labels is None or train.generated:
        return
    absent = sorted({*validation.labels.tolist()} - {*train.labels.tolist()})
    if absent:
        listed = _numbered(absent, train.classes)
        raise InputError(
            f"{train.origin} has no image of {listed}, which the validation images show"
        )


def missing_classes(labels: torch.Tensor, classes: int, names: tuple[str, ...] | None) -> str:
    """Return a warning of the model's classes that no training image shows, if there are any.

    ``labels`` (N,) are those of the training images, ``names`` the classes' by label.
    """
    missing = (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten().tolist()
    if not missing:
        return ""
    return (
        f"the model has {classes:,} classes, the training images {classes - len(missing):,}: "
        f"{_numbered(missing, names)} {'has' if len(missing) == 1 else 'have'} no image"
    )


def _numbered(numbers: Sequence[int], names: tuple[str, ...] | None) -> str:
    return _listed([f"{n} ({printable(names[n])!r})" if names else str(n) for n in numbers])


def _listed(some: Sequence[str]) -> str:
    """``class a``; ``classes a, b and c``; or the first few and how many more."""
    if len(some) == 1:
        return f"class {some[0]}"
    if len(some) > _LISTED:
        return f"classes {', '.join(some[:_LISTED])} and {len(some) - _LISTED:,} more"
    return f"classes {', '.join(some[:-1])} and {some[-1]}"
