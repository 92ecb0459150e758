"""Infer the timm architecture of a state dict from its names and shapes. Never guess silently."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.models.checkpoints import configuration_of
from dcnify.progress import Progress
from dcnify.sources.compare import Reading, Shapes, readings, shapes_of
from dcnify.sources.identify.architecture_args import POSITIONAL, Fit, fit
from dcnify.sources.identify.candidates import rank_model_files
from dcnify.sources.identify.internimage_sizes import nearest_size, size_of
from dcnify.sources.identify.paper_layout import renamed
from dcnify.sources.skeleton import Watch, on_meta
from dcnify.sources.timm_models import create

# A model file whose source explains fewer of the identifiers than the best by this much is out.
_CLOSE = 0.08
# Parameters that may differ: classifier, stem, and what one position embedding brings.
_STRANGERS = 12
# Where the file has no head: that of InternImage-H is of 22.
_STRANGERS_OF_HEAD = 24
_LISTED = 8
_NEAREST_AMONG = 25


@dataclass(frozen=True)
class Identified:
    """The one architecture that fits, and how the file's names map to it."""

    fit: Fit
    prefix: str
    """What all names in the file start with and the model's do not."""
    examined: int
    """How many architectures were compared."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Arguments that make it another size than the name alone does."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Arguments whose values the weights do not tell."""

    def __str__(self) -> str:
        """As options of the command line."""
        given = "".join(f" --model-arg {k}={_json(v)}" for k, v in self.sizes.items())
        return f"--arch {self.fit.name}{given}"


class _NotThis(Exception):
    """The build has registered too many parameters that the file does not have."""


def identify(
    shapes: Shapes, args: dict[str, Any], what: str, on_progress: Progress | None = None
) -> Identified:
    """Find the timm architecture whose names and shapes are those of a file.

    Only architectures that need the least adaptation count: one that fits up to the number of
    classes and input channels hides those that would need another image size, and these hide those
    whose original repository named its weights differently.

    Args:
        shapes: names and shapes of the file's tensors.
        args: `timm.create_model` arguments that are already known.
        what: the file, for messages.
        on_progress: called with each architecture that is tried.

    Raises:
        InputError: several architectures fit (they are listed), or none does (the nearest is).
    """
    attempts = _attempts(shapes, args)
    found = _search(attempts, on_progress)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(_several(what, [one.fit.name for one in found]))
    raise InputError(_none(what, shapes, attempts))


def alternatives(shapes: Shapes) -> list[Identified]:
    """All architectures that fit a file as `identify` compares them; where it fails, several."""
    return _search(_attempts(shapes, {}), None)


def _attempts(shapes: Shapes, args: dict[str, Any]) -> list[_Attempt]:
    found = list(readings(shapes))
    parts = [reading for reading in found if reading.left_out]  # no model of timm's has a neck
    # What names share is mostly a wrapper.
    return [_Attempt(reading, args) for reading in reversed(parts or found)]


def _search(attempts: list[_Attempt], on_progress: Progress | None) -> list[Identified]:
    for search in (_as_it_is, _resized, _renamed):
        for attempt in attempts:
            fits = attempt.run(search, on_progress)
            if fits:
                count = len(attempt.names)
                return [Identified(found, attempt.reading.prefix, count) for found in fits]
    own = (_of_own_size(attempt) for attempt in attempts)
    return [found for found in own if found][:1]


def _of_own_size(attempt: _Attempt) -> Identified | None:
    """An InternImage whose sizes no registered one has."""
    read = configuration_of(attempt.shapes)
    if read is None:
        return None
    name, sizes = nearest_size(read.args)
    try:
        watch = partial(attempt.watch, _STRANGERS_OF_HEAD)
        found = attempt.fit(name, {**sizes, **attempt.args}, watch=watch)
    except (_NotThis, InputError, OverflowError):
        return None
    if found.mismatch:
        return None
    assumed = {**read.assumed, "offset_scale": size_of(name, "offset_scale")}
    assumed = {key: value for key, value in assumed.items() if key not in attempt.args}
    return Identified(found, attempt.reading.prefix, len(attempt.names), sizes, assumed)


class _Attempt:
    """The search for one reading of the file's names; each run narrows it down."""

    def __init__(self, reading: Reading, args: dict[str, Any]) -> None:
        self.reading, self.shapes, self.args = reading, reading.shapes, args
        self.names = _candidates(self.shapes)
        self.left = self.names
        self._known = {
            (name.rpartition(".")[2], _squeezed(shape)) for name, shape in self.shapes.items()
        }

    def fit(
        self,
        name: str,
        args: dict[str, Any] | None = None,
        *,
        watch: Callable[[], Watch] | None = None,
        resize: bool = False,
    ) -> Fit:
        """Compare the names with a timm model, giving up early."""
        part = bool(self.reading.left_out)
        return fit(
            name,
            self.shapes,
            self.args if args is None else args,
            watch=watch or (partial(self.watch, _STRANGERS_OF_HEAD) if part else self.watch),
            resize=resize,
            part=part,
        )

    def run(
        self, search: Callable[[_Attempt, str], Fit | None], on_progress: Progress | None
    ) -> list[Fit]:
        fits, left = [], []
        for done, name in enumerate(self.left):
            if on_progress:
                on_progress(f"trying {name}", done, len(self.left))
            try:
                found = search(self, name)
            except (_NotThis, InputError):
                continue
            left.append(name)
            if found and not found.mismatch:
                fits.append(found)
        self.left = left
        return fits

    def watch(self, strangers: int = _STRANGERS, depth: int = 2) -> Watch:
        return _only_known(self._known, strangers, depth * len(self.shapes) + 10)


def _candidates(shapes: Shapes) -> list[str]:
    ranked = rank_model_files(shapes)
    if not ranked or ranked[0][0] < 0.5:
        return []
    return [name for score, names in ranked if score >= ranked[0][0] - _CLOSE for name in names]


def _as_it_is(attempt: _Attempt, name: str) -> Fit:
    return attempt.fit(name)


def _resized(attempt: _Attempt, name: str) -> Fit:
    return attempt.fit(name, resize=True)


def _renamed(attempt: _Attempt, name: str) -> Fit | None:
    args = attempt.args
    model = on_meta(lambda: create(name, args), attempt.watch())
    empty = {key: torch.empty(shape, device="meta") for key, shape in attempt.shapes.items()}
    out = renamed(name, empty, args, model)
    return fit(name, shapes_of(out), args, resize=False) if out else None


def _only_known(known: set[tuple[str, tuple[int, ...]]], strangers: int, count: int) -> Watch:
    """End a build early once it has made too many parameters that the file cannot hold."""
    strange, total = 0, 0

    def watch(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal strange, total
        total += 1
        if (name, _squeezed(parameter.shape)) not in known and not POSITIONAL.search(name):
            strange += 1
        if strange > strangers or total > count:
            raise _NotThis

    return watch


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without ones: a linear layer may have been written as a 1x1 convolution."""
    return tuple(size for size in shape if size != 1)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _several(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (
        f"{what} fits {len(names)} timm architectures, whose weights look the same: "
        f"{', '.join(names[:_LISTED])}{more}; say which with --arch"
    )


def _none(what: str, shapes: Shapes, attempts: list[_Attempt]) -> str:
    hint = "name it with --arch NAME, and sizes of your own with --model-arg depths=[..]"
    nearest = _nearest(attempts, len(shapes))
    if nearest is None:
        return f"{what} is of no timm architecture that dcnify can tell; {hint}"
    near = f"the nearest is {nearest.name}: {nearest.mismatch}"
    return f"{what} fits no timm architecture; {near}; {hint}"


def _nearest(attempts: list[_Attempt], size: int) -> Fit | None:
    """First of the same width and another depth, then of the same names and another width."""
    nearest: tuple[tuple[int, int], Fit] | None = None
    for everywhere in (True, False):
        for attempt in attempts:
            names = attempt.names if everywhere else attempt.names[:_NEAREST_AMONG]
            for name in names:
                strangers = _STRANGERS if everywhere else 10 * size
                watch = partial(attempt.watch, strangers, depth=10)
                try:
                    tried = attempt.fit(name, watch=watch)
                except (_NotThis, InputError):
                    continue
                differ = tried.mismatch
                wrong = len(differ.unexpected) + (len(differ.reshaped) if everywhere else 0)
                if wrong < size / 2 and (nearest is None or (wrong, len(differ)) < nearest[0]):
                    nearest = (wrong, len(differ)), tried
        if nearest is not None:
            return nearest[1]
    return None
