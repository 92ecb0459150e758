"""Labelled images of a stream: the same order again for the same seed and number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.data import IterableImageDataset
from torch.utils.data import get_worker_info

from dcnify.data import random_state
from dcnify.data.dataset_source import decoded, one_class
from dcnify.data.decode import reading
from dcnify.data.examples import ExampleError
from dcnify.data.label_checks import check_label
from dcnify.errors import InputError


class StreamedExamples(IterableImageDataset):
    """Yields what `Examples` yields, in the order in which timm's reader has it.

    A random transform depends on the seed, the epoch, the worker process, and the place in what
    that worker reads. timm's own loader knows it for a stream and tells it of its workers
    (``set_loader_cfg``); whoever makes another loader does that.

    Args:
        reader: of timm.
        origin: what to call it in a message; printable.
        classes: of the model: labels are below it.
        mode: of the images: ``RGB``, or ``L`` for grey.
        seed: another seed, other random transforms.
        random: whether the transform is random.

    Raises:
        InputError: when it is read: a label is not one of the classes, or the stream breaks off.
    """

    labels = None
    """Only reading tells."""

    def __init__(
        self,
        reader: Any,
        origin: str,
        classes: int,
        *,
        mode: str = "RGB",
        seed: int = 0,
        random: bool = True,
    ) -> None:
        super().__init__(None, reader=reader)
        self.origin, self.classes = origin, classes
        self.mode, self.seed, self.random = mode, seed, random
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, count: int) -> None:
        """Say which epoch comes next, to worker processes as well, before they are asked for it."""
        self._epoch.fill_(count)
        super().set_epoch(count)

    def unreadable(self) -> list[tuple[str, str]]:
        """Nothing: timm's readers leave such images out by themselves, or break off."""
        return []

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        worker = get_worker_info()
        items = iter(self.reader)
        place = 0
        while True:
            name = f"example {place}" + (f" of worker {worker.id}" if worker else "")
            try:
                with reading():
                    item = next(items, None)
                    if item is None:
                        return
                    image = decoded(item[0]).convert(self.mode)
            except InputError as error:
                raise ExampleError(f"{self.origin}: {name}: {error}") from None
            label = one_class(item[1])
            if problem := check_label(label, name, self.classes):
                raise ExampleError(f"{self.origin}: {problem}")
            image = self._transformed(image, worker.id if worker else 0, place)
            yield image, label  # type: ignore[misc]  # checked above
            place += 1

    def _transformed(self, image: Any, worker: int, place: int) -> Any:
        if self.transform is None:
            return image
        if not self.random:
            return self.transform(image)
        with random_state.kept():
            random_state.seed(self.seed, int(self._epoch), worker, place)
            return self.transform(image)
