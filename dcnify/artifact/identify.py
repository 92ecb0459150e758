"""Infer the timm architecture of a state dict from its names and shapes. Never guess silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dcnify.artifact.adapt import POSITIONAL, Fit, fit
from dcnify.artifact.fit import Shapes, shapes_of, unprefixed
from dcnify.artifact.original import renamed
from dcnify.artifact.rank import rank_model_files
from dcnify.artifact.skeleton import Watch, on_meta
from dcnify.artifact.timm_names import create
from dcnify.errors import InputError

Progress = Callable[[int, int, str], None]
Search = Callable[[str, Shapes, dict[str, Any], Callable[[], Watch]], Fit | None]

# A model file whose source explains fewer of the identifiers than the best by this much is out.
_CLOSE = 0.08
# Parameters that may differ: classifier, stem, and what one position embedding brings.
_STRANGERS = 12
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
        on_progress: called with (done, total, name).

    Raises:
        InputError: several architectures fit (they are listed), or none does (the nearest is).
    """
    attempts = [_Attempt(prefix, inner, args) for prefix, inner in unprefixed(shapes)]
    attempts.reverse()  # what names share is mostly a wrapper
    for search in (_as_it_is, _resized, _renamed):
        for attempt in attempts:
            fits = attempt.run(search, on_progress)
            if len(fits) == 1:
                return Identified(fits[0], attempt.prefix, len(attempt.names))
            if fits:
                raise InputError(_several(what, [found.name for found in fits]))
    raise InputError(_none(what, shapes, attempts))


class _Attempt:
    """The search for one reading of the file's names; each run narrows it down."""

    def __init__(self, prefix: str, shapes: Shapes, args: dict[str, Any]) -> None:
        self.prefix, self.shapes, self.args = prefix, shapes, args
        self.names = _candidates(shapes)
        self.left = self.names
        self._known = {
            (name.rpartition(".")[2], _squeezed(shape)) for name, shape in shapes.items()
        }

    def run(self, search: Search, on_progress: Progress | None) -> list[Fit]:
        fits, left = [], []
        for done, name in enumerate(self.left):
            if on_progress:
                on_progress(done, len(self.left), name)
            try:
                found = search(name, self.shapes, self.args, self.watch)
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


def _as_it_is(name: str, shapes: Shapes, args: dict[str, Any], watch) -> Fit:
    return fit(name, shapes, args, watch=watch, resize=False)


def _resized(name: str, shapes: Shapes, args: dict[str, Any], watch) -> Fit:
    return fit(name, shapes, args, watch=watch, resize=True)


def _renamed(name: str, shapes: Shapes, args: dict[str, Any], watch) -> Fit | None:
    model = on_meta(lambda: create(name, args), watch())
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
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
                    tried = fit(name, attempt.shapes, attempt.args, watch=watch, resize=False)
                except (_NotThis, InputError):
                    continue
                differ = tried.mismatch
                wrong = len(differ.unexpected) + (len(differ.reshaped) if everywhere else 0)
                if wrong < size / 2 and (nearest is None or (wrong, len(differ)) < nearest[0]):
                    nearest = (wrong, len(differ)), tried
        if nearest is not None:
            return nearest[1]
    return None
