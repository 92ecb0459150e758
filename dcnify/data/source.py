"""Where labelled examples come from, one at a time, by number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from dcnify.data.decode import open_image
from dcnify.data.digits import ClutteredDigits
from dcnify.data.picture import printable


class Source(Protocol):
    """Examples that can be read in any order, by any process."""

    @property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64: the class of each; None where only reading tells."""

    def __len__(self) -> int: ...

    def name(self, place: int) -> str:
        """What the person knows it by; printable."""

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """The decoded image, and its class if it has exactly one.

        Raises:
            InputError: it cannot be read; with the reason alone.
        """


class FileSource:
    """Image files below a folder.

    Args:
        root: the folder.
        files: relative to it.
        labels: one per file.
    """

    def __init__(self, root: Path, files: Sequence[Path], labels: torch.Tensor) -> None:
        self.root = os.fsencode(root)
        # One object for all names: of a list, each worker process would come to own a copy.
        names = [os.fsencode(file) for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)])
        self.labels: torch.Tensor | None = labels

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, place: int) -> str:
        """The file within its folder."""
        return printable(os.fsdecode(self._file(place)))

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """The decoded image and its class; see `Source.read`."""
        path = Path(os.fsdecode(os.path.join(self.root, self._file(place))))
        return open_image(path), int(self.labels[place])  # type: ignore[index]  # always given

    def _file(self, place: int) -> bytes:
        return self._names[self._ends[place] : self._ends[place + 1]]


class DigitSource:
    """The cluttered digits as grey images."""

    def __init__(self, digits: ClutteredDigits, origin: str) -> None:
        self.digits, self.origin = digits, origin
        self.labels: torch.Tensor | None = digits.labels

    def __len__(self) -> int:
        return len(self.digits)

    def name(self, place: int) -> str:
        """The dataset and the number in it."""
        return f"{self.origin} {place}"

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """The image and the digit."""
        pixels = self.digits.images[place].numpy()
        return Image.fromarray(pixels), int(self.digits.labels[place])


class Some:
    """Some of the examples of a source.

    Args:
        source: the whole.
        places: (n,), int64: those that are wanted, in their order.
    """

    def __init__(self, source: Source, places: torch.Tensor) -> None:
        self.source, self.places = source, places
        self.labels = None if source.labels is None else source.labels[places]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, place: int) -> str:
        """As the whole calls it."""
        return self.source.name(int(self.places[place]))

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """As the whole gives it; see `Source.read`."""
        return self.source.read(int(self.places[place]))


class Renumbered:
    """A source whose classes a model counts otherwise.

    Args:
        source: with its own labels.
        numbers: (classes,), int64: the model's label by the source's.
    """

    def __init__(self, source: Source, numbers: torch.Tensor) -> None:
        self.source, self.numbers = source, numbers
        self.labels = None if source.labels is None else numbers[source.labels]
        self.name = source.name

    def __len__(self) -> int:
        return len(self.source)

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """The same image with the model's label; see `Source.read`."""
        image, label = self.source.read(place)
        return image, None if label is None else int(self.numbers[label])
