"""Read off a file's shapes what `timm.create_model` was told: classes, channels, image size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import timm

from dcnify.errors import InputError
from dcnify.sources.compare import Mismatch, Shapes, compare, shapes_of
from dcnify.sources.identify.features_only import whole_names
from dcnify.sources.skeleton import Watch, on_meta
from dcnify.sources.timm_models import create

POSITIONAL = re.compile(
    r"pos_emb|rel_pos|relative_pos|attention_bias|rope|grid|mlp_tokens|window|coords"
)
_USUAL_SIZES = (
    *(128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 392, 448, 480, 512, 518, 560, 576),
    *(640, 672, 768, 896, 1024, 32, 64, 96),
)


@dataclass(frozen=True)
class Fit:
    """How a file's shapes relate to one architecture."""

    name: str
    args: dict[str, Any]
    read: tuple[str, ...]
    """Which of ``args`` were read from the shapes, ``num_classes=10`` for instance."""
    mismatch: Mismatch


def fit(
    name: str,
    shapes: Shapes,
    args: dict[str, Any],
    *,
    watch: Callable[[], Watch] | None = None,
    resize: bool = True,
    part: bool = False,
) -> Fit:
    """Compare ``shapes`` with the timm model ``name``, adapting what ``args`` leaves open.

    Args:
        name: a timm name.
        shapes: names and shapes of the file's tensors.
        args: what is known of the arguments; never overruled.
        watch: makes a watch for one build on the meta device; see `on_meta`.
        resize: also try other image sizes.
        part: the shapes are of a backbone that more was built on: prefer the model that gives
            feature maps. It is tried last for others that only lack something.

    Returns:
        The fit, whose ``mismatch`` is empty on success. Otherwise the mismatch is that of the
        closest attempt.

    Raises:
        InputError: the model cannot be built with ``args``.
    """

    def attempt(extra: dict[str, Any]) -> Fit:
        all_args = {**extra, **args}
        build = lambda: create(name, all_args)  # noqa: E731
        want = shapes_of(on_meta(build, watch() if watch else None))
        if all_args.get("features_only"):
            want = {whole: want[own] for own, whole in whole_names(want, shapes).items()}
        read = tuple(f"{k}={v}" for k, v in extra.items() if k not in args)
        return Fit(name, all_args, read, compare(shapes, want))

    def features() -> Fit | None:
        try:
            with_maps = {**args, "features_only": True}
            return fit(name, shapes, with_maps, watch=watch, resize=resize)
        except InputError:  # not every architecture has them
            return None

    whole = "features_only" not in args
    maps = features() if part and whole else None
    if maps and not maps.mismatch:
        return maps
    best = attempt({})
    if not best.mismatch:
        return best
    known = _head_and_stem(name, shapes, best.mismatch)
    if known and not known.keys() <= args.keys():
        try:
            best = min(best, attempt(known), key=lambda tried: len(tried.mismatch))
        except InputError:
            known = {}
    if best.mismatch and resize and "img_size" not in args and _only_positions(best.mismatch):
        for size in _image_sizes(name, best.mismatch):
            try:
                resized = attempt({**known, "img_size": size})
            except InputError:
                break
            if not resized.mismatch:
                return resized
    headless = known.get("num_classes") == 0 and not best.mismatch.unexpected
    if headless and best.mismatch and whole and not part:
        maps = features()
    return min(best, maps or best, key=lambda tried: len(tried.mismatch))


def head_and_stem(name: str, shapes: Shapes) -> dict[str, Any]:
    """``num_classes`` and ``in_chans`` as the shapes tell them, where they are not the default."""
    want = shapes_of(on_meta(lambda: create(name, {})))
    return _head_and_stem(name, shapes, compare(shapes, want))


def _head_and_stem(name: str, shapes: Shapes, mismatch: Mismatch) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name)
    differ = {key: (file, model) for key, file, model in mismatch.reshaped}
    found: dict[str, Any] = {}
    for layer in _names(config and config.classifier):
        weight = f"{layer}.weight"
        if weight in differ and differ[weight][0][1:] == differ[weight][1][1:]:
            found["num_classes"] = differ[weight][0][0]
        elif weight in mismatch.missing and not any(key.startswith(layer) for key in shapes):
            found["num_classes"] = 0
    for layer in _names(config and config.first_conv):
        file, model = differ.get(f"{layer}.weight", ((), ()))
        default = (config.input_size or (3,))[0]
        if len(file) == len(model) >= 2 and file[1] != model[1]:
            channels, rest = divmod(file[1] * default, model[1])
            if not rest and channels:
                found["in_chans"] = channels
    return found


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _only_positions(mismatch: Mismatch) -> bool:
    names = [*mismatch.missing, *mismatch.unexpected, *(name for name, *_ in mismatch.reshaped)]
    return all(POSITIONAL.search(name) for name in names)


def _image_sizes(name: str, mismatch: Mismatch) -> Iterator[int]:
    config = timm.get_pretrained_cfg(name)
    default = (config.input_size if config else (3, 224, 224))[-1]
    first = [
        round(default * ratio)
        for _, file, model in mismatch.reshaped
        if (ratio := _scale(file, model))
    ]
    yield from dict.fromkeys([*first[:1], *(size for size in _USUAL_SIZES if size != default)])


def _scale(file: tuple[int, ...], model: tuple[int, ...]) -> float | None:
    """How much finer the file's position grid is; grids are (1, prefix + n·n, C) or (.., n, n)."""
    if len(file) == len(model) == 3 and file[0] == 1:
        side = math.isqrt(model[1])
        other = math.isqrt(file[1] - (model[1] - side**2)) if file[1] > model[1] - side**2 else 0
        return other / side if other**2 + model[1] - side**2 == file[1] else None
    if len(file) == len(model) == 4 and file[2] == file[3]:
        return file[2] / model[2]
    return None
