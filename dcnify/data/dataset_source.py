"""An opened map-style dataset of timm or torchvision, one image and its target at a time."""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from dcnify.data.decode import eight_bits, open_image, reading
from dcnify.data.picture import printable
from dcnify.data.splits import hidden


class DatasetSource:
    """Reads past a dataset's transform and past its ways with broken images.

    Files come in the order of their names, because timm leaves those that differ in upper and
    lower case in the file system's order, and without the hidden ones.

    Args:
        dataset: of timm or torchvision, without a transform.
        origin: what it is called; printable.
    """

    def __init__(self, dataset: Dataset[Any], origin: str) -> None:
        self.dataset, self.origin = dataset, origin
        self._reader = getattr(dataset, "reader", None)
        self._holder = dataset if self._reader is None else self._reader
        self._samples = getattr(self._holder, "samples", None)
        total = len(dataset)  # type: ignore[arg-type]  # every map-style dataset of theirs has one
        self._order: Sequence[int] = range(total)
        if self._samples is not None:
            names = [self._file_name(index) for index in range(total)]
            shown = (index for index in self._order if not hidden(names[index].rpartition("/")[2]))
            self._order = sorted(shown, key=names.__getitem__)

    def __len__(self) -> int:
        return len(self._order)

    def name(self, place: int) -> str:
        """The file within its folder, or the dataset and the number in it."""
        index = self._order[place]
        if self._samples is None:
            return f"{self.origin} {index}"
        return printable(self._file_name(index))

    def fetch(self, place: int) -> tuple[Image.Image | BinaryIO | Path, int | None]:
        """The image, decoded or not, and its class, if it has exactly one."""
        index = self._order[place]
        if self._samples is not None and self._reader is None:
            path, target = self._samples[index]
            return Path(path), one_class(target)
        # Past the dataset, to its reader: timm puts the next image in the place of a broken one.
        get = self.dataset if self._reader is None else self._reader
        source, target, *_ = get[index]
        return source, one_class(target)

    def read(self, place: int) -> tuple[Image.Image, int | None]:
        """The decoded image and its class, if it has exactly one.

        Raises:
            InputError: with the reason alone. See `reading`.
        """
        with reading():
            source, label = self.fetch(place)
            return decoded(source), label

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

    def _file_name(self, index: int) -> str:
        if hasattr(self.dataset, "filename"):
            return str(self.dataset.filename(index))
        return os.path.relpath(self._samples[index][0], self.dataset.root)  # type: ignore[index,attr-defined]  # torchvision's folders have both


def decoded(source: Image.Image | BinaryIO | Path) -> Image.Image:
    """What a dataset gives as an image, decoded; raises whatever a broken one makes it raise."""
    if isinstance(source, Image.Image):
        source.load()
        return eight_bits(source)
    if isinstance(source, Path):
        return open_image(source)
    with source:
        return open_image(source)


def one_class(target: object) -> int | None:
    """The class number that a target is; None for several, a mask, or timm's -1 for none."""
    if getattr(target, "ndim", None) == 0:
        target = target.item()  # type: ignore[attr-defined]  # arrays and tensors have it
    if isinstance(target, numbers.Integral) and not isinstance(target, bool) and target >= 0:
        return int(target)
    return None


def _targets(holder: Any) -> Any:
    """The targets in the order of the dataset's own indices, or None."""
    if hasattr(holder, "targets"):
        return holder.targets
    if hasattr(holder, "samples"):
        return [target for _, target in holder.samples]
    if hasattr(holder, "label_key") and holder.label_key != holder.image_key:
        # timm's reader of Hugging Face datasets.
        return holder.dataset.with_format("numpy")[holder.label_key][:]
    return None
