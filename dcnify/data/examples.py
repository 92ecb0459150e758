"""Images to train on: the same again for the same seed, whichever process makes them."""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from timm.data import IterableImageDataset
from torch.utils.data import Dataset, get_worker_info

from dcnify.data import random_state
from dcnify.data.dataset import ImageDataset, Sample
from dcnify.data.decode import reading
from dcnify.data.labels import label_problem
from dcnify.data.readers.timm_dataset import ImageStream
from dcnify.errors import InputError

_PATIENCE = 50
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
        dataset: the images and their labels.
        classes: of the model: labels are below it. None for images without labels: all are 0.
        mode: of the images: ``RGB``, or ``L`` for grey.
        seed: another seed, other random transforms.
        random: whether the transform is random. If it is not, leaving the random numbers alone
            saves a little.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        classes: int | None,
        *,
        mode: str = "RGB",
        seed: int = 0,
        random: bool = True,
    ) -> None:
        self.dataset, self.origin, self.classes = dataset, dataset.origin, classes
        self.mode, self.seed, self.random = mode, seed, random
        self.transform: Callable[[Image.Image], Any] | None = None
        """Applied to each PIL image."""
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._unreadable = torch.zeros(len(dataset), dtype=torch.bool)
        self._share()

    @property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64: the class of each example; None where only reading tells."""
        return self.dataset.labels

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, in worker processes as well, before its first batch is asked for."""
        self._epoch.fill_(epoch)

    def unreadable(self) -> list[tuple[str, str]]:
        """Return the examples that no process could read so far, each with the reason."""
        return [
            (self.dataset.name(index), self._reason(index))
            for index in self._unreadable.nonzero().flatten().tolist()
        ]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return a batch. Restoring the random state costs more than seeding: once will do."""
        if not self.random or self.transform is None:
            return [self._example(index) for index in indices]
        with random_state.kept():
            return [self._example(index) for index in indices]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    def _share(self) -> None:
        """Keep what workers must see, or report, in memory that they share."""
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

    def _readable(self, first: int) -> tuple[Image.Image, int]:
        """Return the image and label of the first readable example from ``first`` on."""
        tries = min(_PATIENCE, len(self))
        for step in range(tries):
            index = (first + step) % len(self)
            try:
                image, label = self._read(index)
            except InputError:
                self._unreadable[index] = True
                continue
            return image, _checked(label, self.dataset.name(index), self)
        reason = f"{self.dataset.name(first)}: {self._reason(first)}"
        row = "in a row " if tries < len(self) else ""
        raise ExampleError(f"{self.origin}: {tries} images {row}cannot be read; {reason}")

    def _read(self, index: int) -> Sample:
        image, label = self.dataset[index]
        return _converted(image, self.mode), label

    def _reason(self, index: int) -> str:
        try:
            self._read(index)
        except InputError as error:
            return str(error)
        return "could not be read before; now it can"


class StreamedExamples(IterableImageDataset):
    """Yields what `Examples` yields, in the order in which timm's reader has it.

    A random transform depends on the seed, the epoch, the worker process, and the place in what
    that worker reads. timm's own loader knows it for a stream and tells it of its workers
    (``set_loader_cfg``); whoever makes another loader does that. Reading raises `InputError` if a
    label is not one of the classes, or the stream breaks off.
    """

    labels = None
    """Only reading tells."""

    def __init__(
        self,
        stream: ImageStream,
        classes: int,
        *,
        mode: str = "RGB",
        seed: int = 0,
        random: bool = True,
    ) -> None:
        super().__init__(None, reader=stream.reader)
        self.stream, self.origin, self.classes = stream, stream.origin, classes
        self.mode, self.seed, self.random = mode, seed, random
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, count: int) -> None:
        """Set the epoch, in worker processes as well, before its first batch is asked for."""
        self._epoch.fill_(count)
        super().set_epoch(count)

    def unreadable(self) -> list[tuple[str, str]]:
        """Return nothing: timm's readers leave such images out by themselves, or break off."""
        return []

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        images = iter(self.stream)
        for index in itertools.count():
            name = f"example {index}" + (f" of worker {worker.id}" if worker else "")
            try:
                read = next(images, None)
                if read is None:
                    return
                image, label = read()
                image = _converted(image, self.mode)
            except InputError as error:
                raise ExampleError(f"{self.origin}: {name}: {error}") from None
            number = _checked(label, name, self)
            yield self._transformed(image, worker.id if worker else 0, index), number

    def _transformed(self, image: Image.Image, worker: int, index: int) -> Any:
        if self.transform is None:
            return image
        if not self.random:
            return self.transform(image)
        with random_state.kept():
            random_state.seed(self.seed, int(self._epoch), worker, index)
            return self.transform(image)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    with reading():
        return image.convert(mode)


def _checked(label: int | None, name: str, examples: Examples | StreamedExamples) -> int:
    """Return the label of an example; raise `ExampleError` if it is not a class of the model."""
    if examples.classes is None:
        return 0
    if label is None or not 0 <= label < examples.classes:
        problem = label_problem(label, name, examples.classes)
        raise ExampleError(f"{examples.origin}: {problem}")
    return label
