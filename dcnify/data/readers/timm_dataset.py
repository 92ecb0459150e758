"""Datasets that timm or torchvision opened, read past their transforms and error handling."""

import itertools
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from dcnify.data.dataset import ImageDataset, Picture, Sample, printable
from dcnify.data.decode import eight_bits, open_image, reading
from dcnify.data.readers.splits import hidden
from dcnify.errors import InputError


def wrap(dataset: Any, origin: str) -> ImageDataset:
    """Return the images of an opened dataset of timm or torchvision, without its transform."""
    if isinstance(dataset, IterableDataset):
        return ImageStream(dataset.reader, origin)  # type: ignore[attr-defined]  # timm's
    return TimmDataset(dataset, origin)


class TimmDataset(ImageDataset):
    """A map-style dataset of timm or torchvision, without a transform.

    Files come in the order of their names, because timm leaves those that differ in case in the
    file system's order, and without the hidden ones.
    """

    def __init__(self, dataset: Any, origin: str) -> None:
        self.dataset, self.origin = dataset, origin
        self._reader = getattr(dataset, "reader", None)
        self._holder = dataset if self._reader is None else self._reader
        self._samples = getattr(self._holder, "samples", None)
        self.classes, self.unlabelled = class_names(self._holder)
        self._order: Sequence[int] = range(len(dataset))
        if self._samples is not None:
            names = [self._file_name(index) for index in self._order]
            shown = (index for index in self._order if not hidden(names[index].rpartition("/")[2]))
            self._order = sorted(shown, key=names.__getitem__)

    def __len__(self) -> int:
        return len(self._order)

    def name(self, index: int) -> str:
        """The file within its folder, or the dataset and the number in it."""
        place = self._order[index]
        if self._samples is None:
            return f"{self.origin} {place}"
        return printable(self._file_name(place))

    def __getitem__(self, index: int) -> Sample:
        with reading():
            return _decoded(self.fetch(index))

    def fetch(self, index: int) -> Sequence[Any]:
        """Return the image, decoded or not, and its target."""
        place = self._order[index]
        if self._samples is not None and self._reader is None:
            path, target = self._samples[place]
            return Path(path), target
        # Past the dataset, to its reader: timm puts the next image in the place of a broken one.
        return (self.dataset if self._reader is None else self._reader)[place]

    @cached_property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64: the class of each image, where the dataset tells without reading images."""
        targets = _targets(self._holder)
        if targets is None:
            return None
        known = np.asarray(targets)
        if known.ndim != 1 or known.dtype.kind not in "iu":
            return None
        return torch.from_numpy(known.astype(np.int64)[np.asarray(self._order, dtype=np.int64)])

    def _file_name(self, place: int) -> str:
        if hasattr(self.dataset, "filename"):
            return str(self.dataset.filename(place))
        return os.path.relpath(self._samples[place][0], self.dataset.root)  # type: ignore[index]  # torchvision's folders have both


class ImageStream(ImageDataset):
    """Images that come in the order in which a reader of timm has them, and in no other."""

    def __init__(self, reader: Any, origin: str) -> None:
        self.reader, self.origin = reader, origin
        self.classes, self.unlabelled = class_names(reader)

    def __len__(self) -> int:
        return len(self.reader)

    def __iter__(self) -> Iterator[Callable[[], Sample]]:
        """Yield for each image a function that decodes it; `InputError` if the stream breaks."""
        items = iter(self.reader)
        while True:
            with reading():
                item = next(items, None)
            if item is None:
                return
            yield partial(_decoded, item)

    def pictures(self, count: int) -> Iterator[Picture]:
        """Yield the images one after the other; a stream that breaks off ends with the reason."""
        images = iter(self)
        for index in itertools.count():
            name = self.name(index)
            try:
                read = next(images, None)
            except InputError as error:
                yield Picture(name, partial(_fail, error))
                return
            if read is None:
                return
            yield Picture(name, read)


def class_names(reader: Any) -> tuple[tuple[str, ...] | None, str]:
    """Return the names by label, if each of 0, 1, 2, ... has one, and why labels are unusable."""
    number = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if not isinstance(number, Mapping) or not number:
        return None, ""
    names = tuple(str(name) for name in sorted(number, key=number.__getitem__))
    if sorted(number.values()) != list(range(len(names))):
        return None, ""
    if "" in names:
        return None, "not every image is in a class folder"
    if len(names) < 2:
        return None, "there is only one class"
    if hasattr(reader, "samples") and hasattr(reader, "filename") and _alike_to_timm(names):
        return None, "some class folders differ in capitals only, and timm numbers them by chance"
    return names, ""


def one_class(target: Any) -> int | None:
    """Return the class number that a target is; None for several, a mask, or timm's -1."""
    if getattr(target, "ndim", None) == 0:
        target = target.item()
    if isinstance(target, numbers.Integral) and not isinstance(target, bool) and int(target) >= 0:
        return int(target)
    return None


def _alike_to_timm(names: Sequence[str]) -> bool:
    """Whether timm sorts two of the names as if they were one."""
    from timm.utils import natural_key

    return len({str(natural_key(name)) for name in names}) < len(names)


def _decoded(item: Sequence[Any]) -> Sample:
    """Decode the image of an item and convert its target; see `dcnify.data.decode.reading`."""
    with reading():
        source: Image.Image | BinaryIO | Path = item[0]
        label = one_class(item[1])
        if isinstance(source, Image.Image):
            source.load()
            return eight_bits(source), label
        if isinstance(source, Path):
            return open_image(source), label
        with source:
            return open_image(source), label


def _targets(holder: Any) -> Any:
    """Return the targets in the order of the dataset's own indices, or None."""
    if hasattr(holder, "targets"):
        return holder.targets
    if hasattr(holder, "samples"):
        return [target for _, target in holder.samples]
    if hasattr(holder, "label_key") and holder.label_key != holder.image_key:
        # timm's reader of Hugging Face datasets.
        return holder.dataset.with_format("numpy")[holder.label_key][:]
    return None


def _fail(error: InputError) -> Sample:
    raise error
