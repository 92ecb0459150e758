"""The images of an opened dataset of timm or torchvision, one at a time, broken ones included."""

from __future__ import annotations

import itertools
import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from dcnify.data.decode import eight_bits, open_image, reading
from dcnify.data.folder import spread
from dcnify.data.picture import Picture, Pictures, printable
from dcnify.data.splits import hidden
from dcnify.errors import InputError


def pictures_of(dataset: Dataset[Any], count: int, origin: str) -> Pictures:
    """The images of an opened dataset of timm or torchvision, without a transform."""
    classes, unlabelled = _class_names(dataset)
    if isinstance(dataset, IterableDataset):
        return Pictures(origin, _streamed(dataset, origin), None, classes, unlabelled)
    total = len(dataset)  # type: ignore[arg-type]  # every map-style dataset of theirs has a length
    return Pictures(origin, _chosen(dataset, origin, count), total, classes, unlabelled)


def _class_names(dataset: Any) -> tuple[tuple[str, ...] | None, str]:
    """Names by label, where each of 0, 1, 2, ... has one; and why the labels are of no use."""
    reader = getattr(dataset, "reader", None)
    holder = dataset if reader is None else reader
    number = getattr(holder, "class_to_idx", None) or getattr(holder, "class_name_to_idx", None)
    if not isinstance(number, Mapping) or not number:
        return None, ""
    names = tuple(str(name) for name in sorted(number, key=number.__getitem__))
    if sorted(number.values()) != list(range(len(names))):
        return None, ""
    if "" in names:
        return None, "not every image is in a class folder"
    if len(names) < 2:
        return None, "there is only one class"
    if hasattr(reader, "samples") and _alike_to_timm(names):
        return None, "some class folders differ in capitals only, and timm numbers them by chance"
    return names, ""


def _alike_to_timm(names: Sequence[str]) -> bool:
    """Whether timm sorts two of the names as if they were one."""
    from timm.utils import natural_key

    return len({str(natural_key(name)) for name in names}) < len(names)


def _chosen(dataset: Any, origin: str, count: int) -> Iterator[Picture]:
    # Past the dataset, to its reader: timm puts the next image in the place of a broken one.
    reader = getattr(dataset, "reader", None)
    get = dataset.__getitem__ if reader is None else reader.__getitem__
    samples = getattr(dataset if reader is None else reader, "samples", None)
    total = len(dataset)
    order: Sequence[int] = range(total)
    if samples is not None:
        # Files: timm leaves those that differ in upper and lower case in the file system's order.
        names = [_file_name(dataset, index) for index in range(total)]
        order = sorted((i for i in order if not hidden(_base(names[i]))), key=names.__getitem__)
    for place in spread(count, len(order)):
        index = order[place]
        name = printable(names[index]) if samples is not None else f"{origin} {index}"
        if samples is not None and reader is None:
            path, label = samples[index]
            yield Picture(name, partial(open_image, Path(path)), _label(label))
        else:
            yield _picture(name, partial(get, index))


def _streamed(dataset: IterableDataset[Any], origin: str) -> Iterator[Picture]:
    items = iter(dataset)
    for index in itertools.count():
        name = f"{origin} {index}"
        try:
            with reading():
                item = next(items, None)
        except InputError as error:  # a stream that failed once has nothing more to give
            yield Picture(name, partial(_fail, str(error)))
            return
        if item is None:
            return
        yield _picture(name, lambda item=item: item)


def _picture(name: str, get: Callable[[], tuple[Any, Any]]) -> Picture:
    """The picture that ``get`` fetches, as a file or an image, with its target."""
    try:
        with reading():
            source, target, *_ = get()
    except InputError as error:
        return Picture(name, partial(_fail, str(error)))
    return Picture(name, partial(_decoded, source), _label(target))


def _decoded(source: Image.Image | BinaryIO) -> Image.Image:
    if isinstance(source, Image.Image):
        source.load()
        return eight_bits(source)
    with source:
        return open_image(source)


def _fail(reason: str) -> Image.Image:
    raise InputError(reason)


def _label(target: object) -> int | None:
    """The class number that a target is; None for several, a mask, or timm's -1 for none."""
    if getattr(target, "ndim", None) == 0:
        target = target.item()  # type: ignore[attr-defined]  # arrays and tensors have it
    if isinstance(target, numbers.Integral) and not isinstance(target, bool) and target >= 0:
        return int(target)
    return None


def _file_name(dataset: Any, index: int) -> str:
    if hasattr(dataset, "filename"):
        return str(dataset.filename(index))
    return os.path.relpath(dataset.samples[index][0], dataset.root)


def _base(name: str) -> str:
    return name.rpartition("/")[2]
