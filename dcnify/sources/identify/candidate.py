"""Compare a state dict with one architecture, reading classes, channels and image size off it."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dcnify.errors import InputError
from dcnify.sources.construct import Watch, on_meta
from dcnify.sources.identify.foreign import beside
from dcnify.sources.identify.sizes import classifiers, head_and_stem, image_sizes, only_positions
from dcnify.sources.state_dict import Mismatch, Shapes, compare, shapes_of
from dcnify.sources.timm_models import create

_IMAGE = ("patch_size", "window_size")


@dataclass(frozen=True)
class Candidate:
    """An architecture, and how the shapes of a state dict relate to it."""

    name: str
    args: dict[str, Any]
    inferred: tuple[str, ...]
    """Which of ``args`` were read from the shapes, ``num_classes=10`` for instance."""
    mismatch: Mismatch
    left_out: tuple[str, ...] = ()
    """Names of the state dict that the model's function does not need."""


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
        resize: also try other sizes of the image, its patches and windows.
        backbone: the shapes are those of a backbone within a larger model: prefer the model that
            returns feature maps. Otherwise that is tried last, if only a head is missing.

    Returns:
        The candidate, whose ``mismatch`` is empty on success. Otherwise the closest one.
    """

    def attempt(extra: dict[str, Any]) -> Candidate:
        all_args = {**extra, **args}
        model = on_meta(lambda: create(name, all_args), watch() if watch else None)
        want = shapes_of(model)
        if all_args.get("features_only"):
            want = {whole: want[own] for own, whole in whole_names(want, shapes).items()}
        inferred = tuple(f"{k}={v}" for k, v in extra.items() if k not in args)
        mismatch = compare(shapes, want)
        headless = all_args.get("num_classes") == 0
        left = beside(mismatch.unexpected, model, classifiers(name) if headless else ())
        mismatch = mismatch.without(left)
        return Candidate(name, all_args, inferred, mismatch, tuple(left))

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
    read = head_and_stem(name, best.mismatch)
    read = {k: v for k, v in read.items() if resize or k not in _IMAGE}
    known: dict[str, Any] = {}
    # Not every class takes a patch size.
    for more in (read, {k: v for k, v in read.items() if k not in _IMAGE}):
        if known or not more or more.keys() <= args.keys():
            continue
        with suppress(InputError):
            best = min(attempt(more), best, key=distance)
            known = more
    if best.mismatch and resize and "img_size" not in args and only_positions(best.mismatch):
        for size in image_sizes(name, best.mismatch):
            try:
                resized = attempt({**known, "img_size": size})
            except InputError:
                break
            if not resized.mismatch:
                return resized
    headless = known.get("num_classes") == 0 and not best.mismatch.unexpected
    if headless and best.mismatch and not backbone:
        tried = with_feature_maps()
    return next((one for one in tried if not one.mismatch), best)


def whole_names(names: Iterable[str], have: Iterable[str]) -> dict[str, str]:
    """Map the names of a features-only model to those that the whole model has.

    timm either holds the model under ``model.`` or lifts its stages, ``stages.0`` as ``stages_0``.
    The whole model's names are among ``have``, a state dict's for instance.
    """
    flat = {name.replace(".", "_"): name for name in have}
    whole = {name: name.removeprefix("model.") for name in names}
    return {name: flat.get(short.replace(".", "_"), short) for name, short in whole.items()}


def distance(candidate: Candidate) -> int:
    """In how many tensors the file and the architecture differ."""
    return len(candidate.mismatch) + len(candidate.left_out)
