"""Images of one origin: what every reader gives, and what measuring and training take."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from PIL import Image
from torch.utils.data import Dataset

from dcnify.data.decode import Crop
from dcnify.errors import InputError

Sample = tuple[Image.Image, int | None]
"""A decoded image, and its class if it has exactly one."""


class LocationError(InputError):
    """There are no usable images at the place that was named.

    Readers do not know by which option it was named: who calls them puts that before the message.
    """


@dataclass(frozen=True)
class Picture:
    """One image, not yet decoded."""

    name: str
    """The file within its folder, or what the dataset calls it; printable."""
    read: Callable[[], Sample]
    """Decodes it; raises whatever a broken file makes a decoder raise."""
    crop: Crop | None = None
    """The part of it to use; by default as much as fits."""


class ImageDataset(Dataset[Sample]):
    """Images that can be read in any order, by any process: ``dataset[i]`` is (image, label).

    Reading one that is broken raises an `InputError` with the reason alone, such as
    ``not an image``.
    """

    origin: str
    """Where the images come from, for messages and reports; printable."""
    classes: tuple[str, ...] | None = None
    """Names of the classes by label, where the source names them."""
    class_noun = "classes"
    """The source's word for its classes, plural."""
    unlabelled: str = ""
    """Why the labels cannot be used, if they cannot."""
    unreachable: tuple[tuple[str, str], ...] = ()
    """Files and folders that cannot even be opened, each with the reason."""
    generated = False
    """Whether as many images are made as were asked for, in random order already."""

    @cached_property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64: the class of each image; None where only reading tells."""
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The file within its folder, or the dataset and the number in it; printable."""
        return f"{self.origin} {index}"

    def crop(self, index: int) -> Crop | None:
        """The part of the image to measure on; None for as much as fits."""
        return None

    def pictures(self, count: int) -> Iterator[Picture]:
        """Yield ``count`` images at even distances, then the others as replacements."""
        order = range(count) if self.generated else spread(count, len(self))
        for index in order:
            yield Picture(self.name(index), partial(self.__getitem__, index), self.crop(index))


class ImageSubset(ImageDataset):
    """Some images of a dataset, with its labels or with those that a model uses instead.

    Args:
        dataset: the whole.
        indices: (n,), int64: the images to keep, in their order; all by default.
        origin: by default that of the whole.
        numbers: (classes,), int64: the new label by the dataset's own.
        classes: names by new label.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        indices: torch.Tensor | None = None,
        *,
        origin: str | None = None,
        numbers: torch.Tensor | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.dataset, self.numbers = dataset, numbers
        self.indices = torch.arange(len(dataset)) if indices is None else indices
        self.origin = origin or dataset.origin
        self.classes = classes or dataset.classes
        if dataset.labels is not None:
            labels = dataset.labels[self.indices]
            self.labels = labels if numbers is None else numbers[labels]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """The whole's name for it."""
        return self.dataset.name(int(self.indices[index]))

    def __getitem__(self, index: int) -> Sample:
        image, label = self.dataset[int(self.indices[index])]
        if label is None or self.numbers is None:
            return image, label
        return image, int(self.numbers[label])


def spread(count: int, total: int) -> Iterator[int]:
    """Yield `count` of `total` indices at even distances, then the others, each index once.

    Any few in a row lie far apart: a folder is sorted by class, and whoever measures on the first
    images, or calibrates on a batch of them, wants several classes.
    """
    count = min(count, total)
    chosen = [index * total // count for index in range(count)]
    yield from (chosen[place] for place in _bit_reversed(count))
    taken = set(chosen)
    yield from (index for index in _bit_reversed(total) if index not in taken)


def _bit_reversed(total: int) -> Iterator[int]:
    """Every index below ``total``, in the order of the van der Corput sequence."""
    bits = max(total - 1, 1).bit_length()
    backwards = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return (index for index in backwards if index < total)


def printable(name: object) -> str:
    """``name`` on one line: control characters, direction marks and stray bytes as escapes."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1]
        for c in str(name)
    )
