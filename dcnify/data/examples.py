"""Labelled images to train on: the same again for the same seed, whichever process makes them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from dcnify.data import random_state
from dcnify.data.decode import reading
from dcnify.data.label_checks import check_label
from dcnify.data.source import Source
from dcnify.errors import InputError

PATIENCE = 50
"""Unreadable images in a row after which no more are tried."""


class ExampleError(InputError):
    """An example is of no use; one line even after a worker process has passed it on."""

    def __init__(self, message: str) -> None:
        # A DataLoader makes a new error of the same type from the worker's whole traceback.
        last = message.rstrip().rpartition("\n")[2]
        super().__init__(last.removeprefix(f"{__name__}.{type(self).__name__}: "))


class Examples(Dataset[tuple[Any, int]]):
    """Yields ``(image, label)``, or ``(transform(image), label)``, by number.

    What a random transform makes of an example depends on the seed, the epoch and the number of
    the example alone. The place of an image that cannot be read is taken by the next that can.

    Args:
        source: where the examples come from.
        origin: what to call it in a message; printable.
        classes: of the model: labels are below it.
        mode: of the images: ``RGB``, or ``L`` for grey.
        seed: another seed, other random transforms.
        random: whether the transform is random. If it is not, leaving the random numbers alone
            saves a little.
    """

    def __init__(
        self,
        source: Source,
        origin: str,
        classes: int,
        *,
        mode: str = "RGB",
        seed: int = 0,
        random: bool = True,
    ) -> None:
        self.source, self.origin, self.classes = source, origin, classes
        self.mode, self.seed, self.random = mode, seed, random
        self.transform: Callable[[Image.Image], Any] | None = None
        """Made of each image; None for the PIL image itself."""
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._unreadable = torch.zeros(len(source), dtype=torch.bool)
        self._share()

    @property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64: the class of each example; None where only reading tells."""
        return self.source.labels

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, to worker processes as well, before they are asked for it."""
        self._epoch.fill_(epoch)

    def unreadable(self) -> list[tuple[str, str]]:
        """The examples that could not be read so far, in any process, each with the reason."""
        return [
            (self.source.name(place), self._reason(place))
            for place in self._unreadable.nonzero().flatten().tolist()
        ]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not self.random or self.transform is None:
            return self._example(index)
        with random_state.kept():
            return self._example(index)

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """A batch: putting the random numbers back costs more than seeding, so it is done once."""
        if not self.random or self.transform is None:
            return [self._example(index) for index in indices]
        with random_state.kept():
            return [self._example(index) for index in indices]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    def _share(self) -> None:
        """Keep what workers must see, or tell, in memory that they have in common."""
        self._epoch.share_memory_()
        self._unreadable.share_memory_()

    def _example(self, index: int) -> tuple[Any, int]:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.origin}: no example {index} of {len(self)}")
        index %= len(self)
        image, label = self._readable(index)
        if self.transform is None:
            return image, label
        if self.random:
            random_state.seed(self.seed, int(self._epoch), index)
        return self.transform(image), label

    def _readable(self, index: int) -> tuple[Image.Image, int]:
        """The image and label of the first example from ``index`` on that can be read."""
        tries = min(PATIENCE, len(self))
        for step in range(tries):
            place = (index + step) % len(self)
            try:
                image, label = self._read(place)
            except InputError:
                self._unreadable[place] = True
                continue
            if problem := check_label(label, self.source.name(place), self.classes):
                raise ExampleError(f"{self.origin}: {problem}")
            return image, label  # type: ignore[return-value]  # checked above
        first = f"{self.source.name(index)}: {self._reason(index)}"
        row = "in a row " if tries < len(self) else ""
        raise ExampleError(f"{self.origin}: {tries} images {row}cannot be read; {first}")

    def _read(self, place: int) -> tuple[Image.Image, int | None]:
        image, label = self.source.read(place)
        if image.mode == self.mode:
            return image, label
        with reading():
            return image.convert(self.mode), label

    def _reason(self, place: int) -> str:
        try:
            self._read(place)
        except InputError as error:
            return str(error)
        return "could not be read before; now it can"
