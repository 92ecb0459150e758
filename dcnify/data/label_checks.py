"""Whether the labels of some examples are ones that a model can learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dcnify.data.picture import printable
from dcnify.data.source import Source
from dcnify.errors import InputError

_TOLD = 8
"""Classes that are listed one by one."""


def check_label(label: int | None, name: str, classes: int) -> str:
    """What is wrong with the label of one example; nothing, if it is a class of the model."""
    if label is None:
        return f"{name} has no label that is one class"
    if 0 <= label < classes:
        return ""
    return f"label {label} of {name} is not a class of the model, which has {classes:,}"


def check_labels(source: Source, origin: str, classes: int) -> None:
    """Check those that are known without reading an image.

    Raises:
        InputError: one of them is not a class of the model.
    """
    if source.labels is None:
        return
    wrong = ((source.labels < 0) | (source.labels >= classes)).nonzero().flatten()
    if len(wrong):
        place = int(wrong[0])
        problem = check_label(int(source.labels[place]), source.name(place), classes)
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        raise InputError(f"{origin}: {problem}{more}")


def check_same_classes(
    training: tuple[str, ...], validation: tuple[str, ...], origins: tuple[str, str]
) -> None:
    """Check that both parts of a dataset number the same classes in the same way.

    Args:
        training: names by label.
        validation: likewise.
        origins: what to call the two parts.

    Raises:
        InputError: one lacks a class of the other, or the order differs.
    """
    if training == validation:
        return
    first, second = origins
    for names, others, lacking, having in (
        (training, validation, first, second),
        (validation, training, second, first),
    ):
        if missing := sorted(set(others) - set(names)):
            listed = _listed([repr(printable(name)) for name in missing])
            raise InputError(f"{lacking} lacks {listed}, which {having} has")
    pairs = enumerate(zip(training, validation, strict=True))
    number, (one, other) = next(pair for pair in pairs if len(set(pair[1])) > 1)
    raise InputError(
        f"class {number} is {printable(one)!r} in {first} and {printable(other)!r} in {second}"
    )


def check_taught(
    training: torch.Tensor,
    validation: torch.Tensor,
    names: tuple[str, ...] | None,
    origin: str,
) -> None:
    """Check that each class of the validation images is one of the training images too.

    Args:
        training: (N,), int64: labels.
        validation: (M,), int64: labels.
        names: of the classes by label; None if unknown.
        origin: what to call the training images.

    Raises:
        InputError: one is not.
    """
    untaught = sorted(set(validation.unique().tolist()) - set(training.unique().tolist()))
    if untaught:
        listed = _numbered(untaught, names)
        raise InputError(f"{origin} has no image of {listed}, which the validation images show")


def missing_classes(labels: torch.Tensor, classes: int, names: tuple[str, ...] | None) -> str:
    """What to warn of: classes of the model that no training image shows; or nothing.

    Args:
        labels: (N,), int64: of the training images, all of them classes of the model.
        classes: of the model.
        names: of the classes by label; None if unknown.
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
    if len(some) > _TOLD:
        return f"classes {', '.join(some[:_TOLD])} and {len(some) - _TOLD:,} more"
    return f"classes {', '.join(some[:-1])} and {some[-1]}"
