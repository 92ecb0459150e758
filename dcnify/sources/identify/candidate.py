"""Compare a state dict with one architecture, reading classes, channels and image size off it."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import timm

from dcnify.errors import InputError
from dcnify.sources.construct import Watch, on_meta
from dcnify.sources.state_dict import Mismatch, Shapes, compare, shapes_of
from dcnify.sources.timm_models import create

POSITIONAL = re.compile(
    r"pos_emb|rel_pos|relative_pos|attention_bias|rope|grid|mlp_tokens|window|coords"
)
_USUAL_SIZES = (
    *(128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 392, 448, 480, 512, 518, 560, 576),
    *(640, 672, 768, 896, 1024, 32, 64, 96),
)


@dataclass(frozen=True)
class Candidate:
    """An architecture, and how the shapes of a state dict relate to it."""

    name: str
    args: dict[str, Any]
    inferred: tuple[str, ...]
    """Which of ``args`` were read from the shapes, ``num_classes=10`` for instance."""
    mismatch: Mismatch


def try_candidate(
    name: str,
    shapes: Shapes,
    args: dict[str, Any],
    *,
    watch: Callable[[], Watch] | None = None,
    resize: bool = True,
    backbone: bool = False,
) -> Candidate:
    """Compare ``shapes`` with the timm model ``name``, adapting what ``args`` leaves open.

    Args:
        name: a timm name.
        shapes: names and shapes of the state dict.
        args: known constructor arguments; never overruled.
        watch: makes a watch for one build on the meta device; see `on_meta`.
        resize: also try other image sizes.
        backbone: the shapes are those of a backbone within a larger model: prefer the model that
            returns feature maps. Otherwise that is tried last, if only a head is missing.

    Returns:
        The candidate, whose ``mismatch`` is empty on success. Otherwise the closest one.
    """

    def attempt(extra: dict[str, Any]) -> Candidate:
        all_args = {**extra, **args}
        want = shapes_of(on_meta(lambda: create(name, all_args), watch() if watch else None))
        if all_args.get("features_only"):
            want = {whole: want[own] for own, whole in whole_names(want, shapes).items()}
        inferred = tuple(f"{k}={v}" for k, v in extra.items() if k not in args)
        return Candidate(name, all_args, inferred, compare(shapes, want))

    def with_feature_maps() -> list[Candidate]:
        if "features_only" in args:
            return []
        try:
            maps = {**args, "features_only": True}
            return [try_candidate(name, shapes, maps, watch=watch, resize=resize)]
        except InputError:  # not every architecture has them
            return []

    tried = with_feature_maps() if backbone else []
    if tried and not tried[0].mismatch:
        return tried[0]
    best = attempt({})
    if not best.mismatch:
        return best
    known = _head_and_stem(name, shapes, best.mismatch)
    if known and not known.keys() <= args.keys():
        try:
            best = min(best, attempt(known), key=_distance)
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
    if headless and best.mismatch and not backbone:
        tried = with_feature_maps()
    return min(best, *tried, key=_distance) if tried else best


def whole_names(names: Iterable[str], have: Iterable[str]) -> dict[str, str]:
    """Map the names of a features-only model to those that the whole model has.

    timm either holds the model under ``model.`` or lifts its stages, ``stages.0`` as ``stages_0``.
    The whole model's names are among ``have``, a state dict's for instance.
    """
    flat = {name.replace(".", "_"): name for name in have}
    whole = {name: name.removeprefix("model.") for name in names}
    return {name: flat.get(short.replace(".", "_"), short) for name, short in whole.items()}


def head_and_stem(name: str, shapes: Shapes) -> dict[str, Any]:
    """``num_classes`` and ``in_chans`` as read from the shapes, if not the default."""
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


def _distance(candidate: Candidate) -> int:
    return len(candidate.mismatch)


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
        prefix = model[1] - side**2
        other = math.isqrt(max(0, file[1] - prefix))
        return other / side if other**2 + prefix == file[1] else None
    if len(file) == len(model) == 4 and file[2] == file[3]:
        return file[2] / model[2]
    return None
