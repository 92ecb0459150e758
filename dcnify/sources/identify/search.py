"""Search timm for the architecture that a state dict's names and shapes belong to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NoReturn

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.models.checkpoints import configuration_of
from dcnify.progress import Progress, silent
from dcnify.sources.construct import Watch, on_meta
from dcnify.sources.identify.candidate import Candidate, try_candidate
from dcnify.sources.identify.internimage_sizes import nearest_size, size_of
from dcnify.sources.identify.layouts import library_of
from dcnify.sources.identify.model_files import rank_model_files
from dcnify.sources.identify.paper_layout import renamed
from dcnify.sources.identify.sizes import POSITIONAL
from dcnify.sources.parts import Part, parts_of
from dcnify.sources.state_dict import Shapes, shown
from dcnify.sources.timm_models import create

# A model file whose source explains fewer of the identifiers than the best by this much is out.
_CLOSE = 0.08
# Parameters that may differ: classifier, stem, and what one position embedding brings.
_STRANGERS = 12
# Where the file has no head: that of InternImage-H is of 22.
_STRANGERS_OF_HEAD = 24
_LISTED = 8
_NEAREST_AMONG = 25
_MOST_PARTS = 4
_PATIENCE = 3.0
"""Seconds for what only makes an error message better."""


@dataclass(frozen=True)
class Identified:
    """The one architecture that fits."""

    candidate: Candidate
    examined: int
    """How many architectures were compared."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Arguments that make it another size than the name alone does."""
    assumed: dict[str, Any] = field(default_factory=dict)
    """Arguments that cannot be read from the weights."""

    def __str__(self) -> str:
        """As options of the command line."""
        values = {k: json.dumps(v, separators=(",", ":")) for k, v in self.sizes.items()}
        given = "".join(f" --model-arg {k}={v}" for k, v in values.items())
        return f"--arch {self.candidate.name}{given}"


class _TooDifferent(Exception):
    """The build has registered too many parameters that the file does not have."""


def identify(
    shapes: Shapes, args: dict[str, Any], what: str, on_progress: Progress = silent
) -> Identified:
    """As `search`, but raise `InputError` with the nearest architecture if none fits."""
    return search(shapes, args, what, on_progress) or nothing_fits(shapes, args, what)


def search(
    shapes: Shapes, args: dict[str, Any], what: str, on_progress: Progress = silent
) -> Identified | None:
    """Find the timm architecture whose names and shapes are those of a file.

    Only architectures that need the least adaptation count: one that fits up to the number of
    classes and input channels hides those that would need another image size, and these hide those
    whose original repository named its weights differently. Nothing is guessed: `InputError` lists
    the architectures if several fit.
    """
    found = _run(_searches(shapes, args), on_progress)
    if len(found) > 1:
        raise InputError(_several(what, [one.candidate.name for one in found]))
    return found[0] if found else None


def nothing_fits(shapes: Shapes, args: dict[str, Any], what: str) -> NoReturn:
    """Raise `InputError` that names the architecture nearest to a file."""
    raise InputError(_none(what, shapes, _searches(shapes, args)))


def alternatives(shapes: Shapes) -> list[Identified]:
    """Architectures that fit a file as it is, as many as a few seconds allow to find."""
    end = monotonic() + _PATIENCE
    searches = _searches(shapes, {})
    found = [
        Identified(fit, len(search.names))
        for search in searches
        for fit in search.narrow(_Search.as_it_is, silent, end)
    ]
    return found or _of_own_size(searches)


def _searches(shapes: Shapes, args: dict[str, Any]) -> list[_Search]:
    """The parts of the file whose names timm's source files explain best, inner ones first."""
    searches = [_Search(part, args) for part in reversed(parts_of(shapes))]
    best = max(search.explained for search in searches)
    kept = [search for search in searches if search.explained >= best - _CLOSE]
    return sorted(kept, key=lambda search: -search.explained)[:_MOST_PARTS]


def _run(searches: list[_Search], on_progress: Progress) -> list[Identified]:
    for method in (_Search.as_it_is, _Search.resized, _Search.renamed):
        for search in searches:
            fits = search.narrow(method, on_progress)
            if fits:
                return [Identified(fit, len(search.names)) for fit in fits]
    return _of_own_size(searches)


def _of_own_size(searches: list[_Search]) -> list[Identified]:
    own = (search.internimage_of_own_size() for search in searches)
    return [found for found in own if found][:1]


class _Search:
    """The search for the architecture of one part of the file; each method narrows it down."""

    def __init__(self, part: Part, args: dict[str, Any]) -> None:
        self.part, self.shapes, self.args = part, part.shapes, args
        self.explained, self.names = _candidate_names(self.shapes)
        self.left = self.names
        self.strangers = _STRANGERS_OF_HEAD if part.is_backbone else _STRANGERS
        self._known = {(k.rpartition(".")[2], _squeezed(v)) for k, v in self.shapes.items()}

    def narrow(
        self,
        method: Callable[[_Search, str], Candidate | None],
        on_progress: Progress,
        end: float = math.inf,
    ) -> list[Candidate]:
        """Try ``method`` on the names that are left until ``end``; keep those that can be built."""
        fits, left = [], []
        for done, name in enumerate(self.left):
            if monotonic() > end:
                break
            on_progress(f"trying {name}", done, len(self.left))
            try:
                found = method(self, name)
            except (_TooDifferent, InputError):
                continue
            left.append(name)
            if found and not found.mismatch:
                fits.append(found)
        self.left = left
        return fits

    def as_it_is(self, name: str) -> Candidate:
        return self._try(name, self.args, self.strangers)

    def resized(self, name: str) -> Candidate:
        return self._try(name, self.args, self.strangers, resize=True)

    def renamed(self, name: str) -> Candidate | None:
        on_meta(lambda: create(name, self.args), self._watch(_STRANGERS))  # give up early
        empty = {key: torch.empty(shape, device="meta") for key, shape in self.shapes.items()}
        found = renamed(name, empty, self.args)
        return found.candidate if found else None

    def near(self, name: str, strangers: int) -> Candidate | None:
        """The model ``name`` even if it is much deeper; None if it is too different."""
        try:
            return self._try(name, self.args, strangers, depth=10)
        except (_TooDifferent, InputError):
            return None

    def internimage_of_own_size(self) -> Identified | None:
        """An InternImage of sizes that are not registered."""
        read = configuration_of(self.shapes)
        if read is None:
            return None
        name, sizes = nearest_size(read.args)
        try:
            found = self._try(name, {**sizes, **self.args}, _STRANGERS_OF_HEAD)
        except (_TooDifferent, InputError, OverflowError):
            return None
        if found.mismatch:
            return None
        assumed = {**read.assumed, "offset_scale": size_of(name, "offset_scale")}
        assumed = {key: value for key, value in assumed.items() if key not in self.args}
        return Identified(found, len(self.names), sizes, assumed)

    def _try(
        self,
        name: str,
        args: dict[str, Any],
        strangers: int,
        *,
        depth: int = 2,
        resize: bool = False,
    ) -> Candidate:
        """Compare with a timm model; end its build once it has too many other parameters."""
        return try_candidate(
            name,
            self.shapes,
            args,
            watch=lambda: self._watch(strangers, depth),
            resize=resize,
            backbone=self.part.is_backbone,
        )

    def _watch(self, strangers: int, depth: int = 2) -> Watch:
        strange, total = 0, 0
        limit = depth * len(self.shapes) + 10

        def watch(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
            nonlocal strange, total
            total += 1
            known = (name, _squeezed(parameter.shape)) in self._known
            strange += not known and not POSITIONAL.search(name)
            if strange > strangers or total > limit:
                raise _TooDifferent

        return watch


def _candidate_names(shapes: Shapes) -> tuple[float, list[str]]:
    """How much of the names the best file explains, and the architectures of the like."""
    ranked = rank_model_files(shapes)
    if not ranked or ranked[0][0] < 0.5:
        return 0.0, []
    best = ranked[0][0]
    return best, [name for score, names in ranked if score >= best - _CLOSE for name in names]


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without ones: a linear layer may have been written as a 1x1 convolution."""
    return tuple(size for size in shape if size != 1)


def _several(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (
        f"{what} fits {len(names)} timm architectures, whose weights look the same: "
        f"{', '.join(names[:_LISTED])}{more}; say which with --arch"
    )


def _none(what: str, shapes: Shapes, searches: list[_Search]) -> str:
    hint = "name it with --arch NAME, and sizes of your own with --model-arg depths=[..]"
    if known := library_of(shapes):
        return f"{what} fits no timm architecture: {known}"
    nearest = _nearest(searches, len(shapes))
    if nearest is None:
        heads = ", ".join(dict.fromkeys(shown(name.partition(".")[0]) for name in shapes))
        return (
            f"{what} fits no timm architecture that dcnify can tell (its names start with "
            f"{heads:.60}); {hint}"
        )
    near = f"the nearest is {nearest.name}: {nearest.mismatch}"
    return f"{what} fits no timm architecture; {near}; {hint}"


def _nearest(searches: list[_Search], size: int) -> Candidate | None:
    """Prefer the same width and another depth, then the same names and another width.

    The search ends after a few seconds, with what was found by then.
    """
    end = monotonic() + _PATIENCE
    for same_width in (True, False):
        nearest: tuple[tuple[int, int], Candidate] | None = None
        for search in searches:
            for name in search.names if same_width else search.names[:_NEAREST_AMONG]:
                if monotonic() > end:
                    break
                tried = search.near(name, _STRANGERS if same_width else 10 * size)
                if tried is None:
                    continue
                differ = tried.mismatch
                wrong = len(differ.unexpected) + (len(differ.reshaped) if same_width else 0)
                distance = wrong, len(differ)
                if wrong < size / 2 and (nearest is None or distance < nearest[0]):
                    nearest = distance, tried
        if nearest is not None:
            return nearest[1]
    return None
