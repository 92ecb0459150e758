"""Datasets that are built in and need no download, by name."""

import inspect
from typing import Any

from PIL import Image

from dcnify.data.dataset import ImageDataset, Sample, printable
from dcnify.data.readers.digits import ClutteredDigits
from dcnify.errors import InputError
from dcnify.words import did_you_mean

PREFIX = "builtin:"
BUILTIN: dict[str, type[ClutteredDigits]] = {"builtin:cluttered-digits": ClutteredDigits}
"""Every name `open_dataset` knows."""


def open_dataset(name: str, split: str = "train", **options: Any) -> ClutteredDigits:
    """Open the dataset called `name`.

    Args:
        name: a name that starts with ``builtin:``, such as ``builtin:cluttered-digits``.
        split: ``train`` or ``validation``.
        options: passed on to the dataset; see `ClutteredDigits`.

    Raises:
        InputError: no dataset has that name, or it has no such split or option.
    """
    if name in BUILTIN:
        try:
            inspect.signature(BUILTIN[name]).bind(split, **options)
        except TypeError as error:
            raise InputError(f"{name}: {error}") from None
        return BUILTIN[name](split, **options)
    known = f": there are {', '.join(BUILTIN)}"
    near = BUILTIN if name.startswith(PREFIX) else ()
    raise InputError(
        f"unknown dataset {name!r}{did_you_mean(name, near, cutoff=0.5, otherwise=known)}"
    )


class BuiltinDataset(ImageDataset):
    """A split of a built-in dataset, as grey images.

    ``name`` may have options, as in ``builtin:cluttered-digits?canvas=48&pieces=2``; ``origin`` is
    for messages. An unknown name, split or option raises `InputError`.
    """

    generated = True

    def __init__(self, name: str, split: str, count: int | None, origin: str) -> None:
        dataset, _, query = name.partition("?")
        size = {"size": count} if count else {}
        self.digits = open_dataset(dataset, split, **size, **_options(dataset, query))
        self.dataset, self.origin = dataset, origin
        self.classes, self.labels = self.digits.classes, self.digits.labels

    def __len__(self) -> int:
        return len(self.digits)

    def name(self, index: int) -> str:
        """The dataset and the number in it."""
        return f"{self.dataset} {index}"

    def __getitem__(self, index: int) -> Sample:
        return Image.fromarray(self.digits.images[index].numpy()), int(self.digits.labels[index])


def _options(name: str, query: str) -> dict[str, int]:
    """Parse what follows the question mark: ``canvas=48&pieces=2``."""
    if not query or name not in BUILTIN:
        return {}
    parameters = inspect.signature(BUILTIN[name]).parameters.items()
    known = [key for key, parameter in parameters if isinstance(parameter.default, int)]
    options = {}
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key not in known:
            meant = did_you_mean(
                key, known, cutoff=0.5, otherwise=f", there are {', '.join(known)}"
            )
            raise InputError(f"{name}: unknown option {printable(key)!r}{meant}")
        try:
            options[key] = int(value)
        except ValueError:
            raise InputError(
                f"{name}: {key} must be a whole number, not {printable(value)!r}"
            ) from None
    return options
