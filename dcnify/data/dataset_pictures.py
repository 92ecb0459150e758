"""The images of an opened dataset of timm or torchvision, one at a time, broken ones included."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from dcnify.data.dataset_source import DatasetSource, decoded, one_class
from dcnify.data.decode import reading
from dcnify.data.folder import spread
from dcnify.data.picture import Picture, Pictures
from dcnify.errors import InputError


def pictures_of(dataset: Dataset[Any], count: int, origin: str) -> Pictures:
    """The images of an opened dataset of timm or torchvision, without a transform."""
    classes, unlabelled = class_names(dataset)
    if isinstance(dataset, IterableDataset):
        return Pictures(origin, _streamed(dataset, origin), None, classes, unlabelled)
    total = len(dataset)  # type: ignore[arg-type]  # every map-style dataset of theirs has a length
    return Pictures(origin, _chosen(dataset, origin, count), total, classes, unlabelled)


def class_names(dataset: Any) -> tuple[tuple[str, ...] | None, str]:
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


def _chosen(dataset: Dataset[Any], origin: str, count: int) -> Iterator[Picture]:
    source = DatasetSource(dataset, origin)
    for place in spread(count, len(source)):
        yield _picture(source.name(place), partial(source.fetch, place))


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
    return Picture(name, partial(decoded, source), one_class(target))


def _fail(reason: str) -> Image.Image:
    raise InputError(reason)
