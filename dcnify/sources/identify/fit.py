"""Fit a state dict, or the part of it that is the model, to an architecture that is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import timm
from torch import Tensor

from dcnify.errors import InputError
from dcnify.sources.base import Base
from dcnify.sources.construct import at_most, on_meta
from dcnify.sources.identify.candidate import Candidate, distance, try_candidate, whole_names
from dcnify.sources.identify.foreign import beside
from dcnify.sources.identify.layouts import library_of
from dcnify.sources.identify.paper_layout import renamed
from dcnify.sources.materialise import skeleton
from dcnify.sources.parts import Part, parts_of
from dcnify.sources.reading.checkpoint import Checkpoint, refuse_odd
from dcnify.sources.state_dict import Mismatch, compare, shapes_of
from dcnify.sources.timm_models import create

_RENAMED = "names of the original repository, put into timm's by timm"
_TOLD_BY_SHAPES = ("num_classes", "in_chans", "img_size")
_SIZES = ("img_size", "patch_size", "window_size")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)(?=[._])|_ema\.")
_LISTED = 6


class DoesNotFit(InputError):
    """The architecture that was named has other weights."""


@dataclass(frozen=True)
class Fitted:
    """A part of a checkpoint that is the whole of a model."""

    base: Base
    tensors: dict[str, Tensor]
    """By the model's own names."""
    notes: tuple[str, ...]
    inferred: tuple[str, ...] = ()
    """Arguments that were read from the shapes: ``num_classes=10``."""


def fit_timm(name: str, checkpoint: Checkpoint, what: str, args: dict[str, Any]) -> Fitted:
    """Fit the part of a checkpoint that is the timm model ``name``.

    Raises:
        InputError: no part fits, or several do.
    """
    attempts = [args]
    if (checkpoint.arch or "").removeprefix("timm:") == name and checkpoint.args:
        said = _accepted(name, checkpoint.args)
        untold = {k: v for k, v in said.items() if k not in _TOLD_BY_SHAPES}
        attempts = [{**said, **args}, {**untold, **args}, args]
    shapes = shapes_of(checkpoint.tensors)
    whole = {key: value for key, value in args.items() if key != "features_only"}
    limit = 4 * len(shapes) + 1000
    watch = partial(at_most, limit)
    failed: InputError | None = None
    closest: Candidate | None = None
    try:
        model = on_meta(lambda: create(name, whole), watch())
        parts = parts_of(shapes, shapes_of(model))
        for number, attempt in enumerate(attempts):
            fits = []
            for part in parts:
                try:
                    tried = try_candidate(
                        name, part.shapes, attempt, watch=watch, backbone=part.is_backbone
                    )
                except InputError as error:
                    failed = failed or error
                    break
                if not tried.mismatch:
                    fits.append((part, tried))
                elif closest is None or distance(tried) < distance(closest):
                    closest = tried
            if fits:
                part, tried, notes = _the_one(fits, name, what)
                if number:
                    notes.append("left out options in the file that its weights contradict")
                tensors = part.select(checkpoint.tensors)
                refuse_odd(tensors, what)
                return _fitted(part, tried, tensors, args, notes)
        if closest is None:
            raise failed or InputError(f"{what} does not fit {name}")
        refuse_odd(checkpoint.tensors, what)
        found = _renamed(name, checkpoint.tensors, args, parts)
        return found or _refuse(what, name, closest, checkpoint)
    except OverflowError:
        raise DoesNotFit(f"{name} has over {limit} parameters, {what} {len(shapes)}") from None


def fit_base(checkpoint: Checkpoint, what: str, base: Base) -> Fitted:
    """Fit the part of a checkpoint that is the model of ``base``, whose arguments are all known."""
    shapes = shapes_of(checkpoint.tensors)
    model = skeleton(base.build, shapes, own_code=base.kind == "python")
    want, fits, closest = shapes_of(model), [], None
    for part in parts_of(shapes, want):
        mismatch = compare(part.shapes, want)
        left = beside(mismatch.unexpected, model)
        tried = Candidate(base.name, base.args, (), mismatch.without(left), tuple(left))
        if not tried.mismatch:
            fits.append((part, tried))
        elif closest is None or len(mismatch) < len(closest):
            closest = mismatch
    if not fits:
        raise NoPartFits(f"{what} does not fit {base}: {closest}", closest or Mismatch((), (), ()))
    part, tried, notes = _the_one(fits, str(base), what)
    held = part.select(checkpoint.tensors)
    refuse_odd(held, what)
    return Fitted(base, _without(held, tried.left_out), (f"the architecture is {base}", *notes))


class NoPartFits(InputError):
    """No part of the file is the model; ``mismatch`` is that of the closest."""

    def __init__(self, said: str, mismatch: Mismatch) -> None:
        super().__init__(said)
        self.mismatch = mismatch


def _the_one(
    fits: Sequence[tuple[Part, Candidate]], name: str, what: str
) -> tuple[Part, Candidate, list[str]]:
    """The part to take, with notes: the only one that fits, or the only one not averaged."""
    plain = [fit for fit in fits if not _AVERAGED.search(fit[0].prefix)]
    if len(fits) > 1 and len(plain) != 1:
        keys = [fit[0].prefix.removesuffix(".") or "(top level)" for fit in fits]
        listed = ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
        raise InputError(
            f"{what} holds {len(fits)} state dicts that fit {name}: {listed}; say which with "
            f"--key, as in --key {next(key for key in keys if key != '(top level)')}"
        )
    part, tried = plain[0] if len(plain) == 1 else fits[0]
    notes = part.notes(tried.left_out)
    others = [fit[0].prefix.removesuffix(".") for fit in fits if fit[0] is not part]
    if others:
        notes.append(f"the file also holds averaged weights: --key {others[0]} takes them")
    return part, tried, notes


def _renamed(
    name: str, tensors: dict[str, Tensor], args: dict[str, Any], parts: list[Part]
) -> Fitted | None:
    """Fit a part by timm's filter; it resamples only to sizes that ``args`` asks for."""
    for part in parts:
        given = part.select(tensors)
        found = renamed(name, given, args, resample=bool(set(_SIZES) & args.keys()))
        if found is None:
            continue
        notes = [*part.notes(found.candidate.left_out), _RENAMED]
        if found.resampled:
            notes.append(
                f"timm resampled {', '.join(found.resampled)} to the size that was asked for"
            )
        dropped = len(given) - len(found.tensors)
        if dropped > 0:
            notes.append(f"renaming left out {dropped} of {len(given)} tensors")
        return _fitted(part, found.candidate, found.tensors, args, notes)
    return None


def _fitted(
    part: Part,
    found: Candidate,
    tensors: dict[str, Tensor],
    args: dict[str, Any],
    notes: list[str],
) -> Fitted:
    """The tensors under the model's names: one that gives feature maps has names of its own."""
    kept = _without(tensors, found.left_out)
    base = Base("timm", found.name, found.args)
    if found.args.get("features_only"):
        names = whole_names(shapes_of(on_meta(lambda: create(found.name, found.args))), kept)
        kept = {own: kept[whole] for own, whole in names.items() if whole in kept}
        if not args.get("features_only"):
            notes.append(
                "no classifier is with the weights: the model gives feature maps (features_only)"
            )
    return Fitted(base, kept, tuple(notes), found.inferred)


def _without(tensors: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    gone = set(names)
    return {key: value for key, value in tensors.items() if key not in gone}


def _refuse(what: str, name: str, closest: Candidate, checkpoint: Checkpoint) -> Fitted:
    whole = (*closest.mismatch.unexpected, *closest.left_out)
    mismatch = replace(closest.mismatch, unexpected=whole)
    said = f"{what} does not fit {name}: {mismatch}"
    if mismatch.missing and (known := library_of(checkpoint.tensors)):
        said += f"; {known}"
    if mismatch.unexpected and len(mismatch) == len(mismatch.unexpected):
        said += "; say with --model-arg what has them, or leave them out with --ignore"
    if any(key == "pos_embed" for key, *_ in mismatch.reshaped):
        said += "; nothing is resampled unless asked: give the size with --model-arg img_size=[H,W]"
    raise DoesNotFit(said)


def _accepted(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments without an image size, which models of any size do not take."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        return args
    return {k: v for k, v in args.items() if k != "img_size"}
