"""Resolve a checkpoint: decide which architecture it belongs to, and fit its tensors to that."""

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from torch import Tensor

from dcnify.errors import InputError
from dcnify.models import checkpoints
from dcnify.progress import Progress, silent
from dcnify.sources.base import Base
from dcnify.sources.checkpoint import Checkpoint
from dcnify.sources.construct import at_most, on_meta
from dcnify.sources.identify.candidate import POSITIONAL, Candidate, try_candidate, whole_names
from dcnify.sources.identify.paper_layout import renamed
from dcnify.sources.identify.search import Identified, alternatives, identify
from dcnify.sources.materialise import mismatch_of, refuse_types
from dcnify.sources.state_dict import prefix_views, shapes_of
from dcnify.sources.timm_models import create
from dcnify.sources.torchvision_models import TRANSFORMS_INPUT

_RENAMED = "names of the original repository, put into timm's by timm"
_TOLD_BY_SHAPES = ("num_classes", "in_chans", "img_size")

Fitted = tuple[Candidate, dict[str, Tensor], list[str]]
"""A candidate, the tensors under its names, and notes."""


@dataclass(frozen=True)
class Resolved:
    """A base, and a checkpoint's tensors under its names and in its types."""

    base: Base
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def resolve(
    checkpoint: Checkpoint,
    what: str,
    *,
    arch: str | None,
    args: dict[str, Any],
    on_progress: Progress = silent,
) -> Resolved:
    """Decide which architecture a checkpoint belongs to, and fit it strictly.

    The architecture is, in this order, what the user says (``arch``, a timm name,
    ``torchvision:NAME`` or ``python:package.module:factory``), what the file says, and what the
    shapes tell. So are its arguments, ``args``. Raises `InputError` if none fits, several do, or
    the named one does not.
    """
    kind, _, other = (arch or "").partition(":")
    if kind == "python":
        return _fit_as_it_is(checkpoint, what, Base(kind, other, args))
    if kind == "torchvision":
        return _fit_torchvision(checkpoint, what, other, args)
    checkpoint, notes = _in_published_names(checkpoint)
    said = (checkpoint.arch or "").removeprefix("timm:")
    if said and (":" in said or not timm.is_model(said)):
        notes.append(f"the file names {said}, which is not a timm architecture")
        said = ""
    hint = _fitting_hint(checkpoint, what, args) if not (arch or said) else None
    name = (arch or said or hint or "").removeprefix("timm:")
    if not name:
        found = identify(shapes_of(checkpoint.tensors), args, what, on_progress)
        name, args = found.candidate.name, {**found.sizes, **args}
        notes += _inferred(found)
    elif not arch:
        notes.append(f"the file says it is {name}")
    elif said and said != name:
        notes.append(f"--arch {name} wins over {said}, which the file names")
    try:
        fitted, tensors, more = _fit_named(name, checkpoint, what, args)
    except _DoesNotFit as error:
        others = alternatives(shapes_of(checkpoint.tensors))
        near = f"; did you mean {' or '.join(map(str, others[:3]))}?" if others else ""
        raise InputError(f"{error}{near}") from None
    notes += more
    if fitted.inferred:
        notes.append(f"read from the shapes: {', '.join(fitted.inferred)}")
    base = Base("timm", name, fitted.args)
    tensors, more = _cast(tensors, base, what)
    return Resolved(base, tensors, (*notes, *more))


class _DoesNotFit(InputError):
    """The architecture that was named has other weights."""


def _in_published_names(checkpoint: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """InternImage's Hugging Face port has names of its own for the same tensors."""
    names = {name: checkpoints.renamed(name) for name in checkpoint.tensors}
    if all(name == published for name, published in names.items()):
        return checkpoint, []
    tensors = {names[name]: value for name, value in checkpoint.tensors.items()}
    note = "names of InternImage's Hugging Face port, put into those of the original"
    return dataclasses.replace(checkpoint, tensors=tensors), [note]


def _inferred(found: Identified) -> list[str]:
    name = found.candidate.name
    if not found.sizes:
        return [
            f"inferred {name}, the only one of {found.examined} architectures compared whose "
            "weights have these names and shapes"
        ]
    notes = [f"inferred an InternImage of sizes of its own: {found}"]
    if found.assumed:
        assumed = ", ".join(f"{key}={value}" for key, value in found.assumed.items())
        notes.append(f"assumed {assumed}, which the weights do not show: set with --model-arg")
    return notes


def _fitting_hint(checkpoint: Checkpoint, what: str, args: dict[str, Any]) -> str | None:
    """The file's ``arch`` if it is a timm model that its weights fit, not just a class's name."""
    hint = checkpoint.arch_hint or ""
    if not hint or ":" in hint or not timm.is_model(hint):
        return None
    try:
        _fit_named(hint, checkpoint, what, args)
    except InputError:
        return None
    return hint


def _fit_named(name: str, checkpoint: Checkpoint, what: str, args: dict[str, Any]) -> Fitted:
    """Fit the state dict to the timm model ``name``."""
    attempts = [args]
    if (checkpoint.arch or "").removeprefix("timm:") == name and checkpoint.args:
        said = _accepted(name, checkpoint.args)
        untold = {k: v for k, v in said.items() if k not in _TOLD_BY_SHAPES}
        attempts = [{**said, **args}, {**untold, **args}, args]
    views = list(prefix_views(shapes_of(checkpoint.tensors)))
    closest: Candidate | None = None
    failed: InputError | None = None
    for number, attempt in enumerate(attempts):
        for view in views:
            limit = 4 * len(view.shapes) + 1000
            watch, backbone = partial(at_most, limit), bool(view.left_out)
            try:
                tried = try_candidate(name, view.shapes, attempt, watch=watch, backbone=backbone)
            except OverflowError:
                raise _DoesNotFit(
                    f"{name} has over {limit} parameters, {what} {len(view.shapes)}"
                ) from None
            except InputError as error:
                failed = failed or error
                break
            if not tried.mismatch:
                notes = view.notes()
                if number:
                    notes.append("left out options in the file that its weights contradict")
                tensors, more = _under_its_names(tried, view.select(checkpoint.tensors), args)
                return tried, tensors, [*notes, *more]
            if closest is None or len(tried.mismatch) < len(closest.mismatch):
                closest = tried
    if closest is None:
        raise failed or InputError(f"{what} does not fit {name}")
    model = on_meta(lambda: create(name, args))
    for view in views:
        tensors = view.select(checkpoint.tensors)
        out = renamed(name, tensors, args, model)
        if out is not None:
            notes = [*view.notes(), _RENAMED, *_resampled(tensors, out)]
            dropped = len(tensors) - len(out)
            if dropped > 0:
                notes.append(f"renaming left out {dropped} of {len(tensors)} tensors")
            return try_candidate(name, shapes_of(out), args), out, notes
    raise _DoesNotFit(f"{what} does not fit {name}: {closest.mismatch}")


def _under_its_names(
    found: Candidate, tensors: dict[str, Tensor], args: dict[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """A model that gives feature maps has names of its own for the weights of the whole one."""
    if not found.args.get("features_only"):
        return tensors, []
    names = whole_names(shapes_of(on_meta(lambda: create(found.name, found.args))), tensors)
    held = {own: tensors[whole] for own, whole in names.items() if whole in tensors}
    note = "no classifier is with the weights: the model gives feature maps (features_only)"
    return held, [] if args.get("features_only") else [note]


def _resampled(given: dict[str, Tensor], out: dict[str, Tensor]) -> list[str]:
    """A note if renaming also resampled position embeddings, which changes the function."""
    sizes = {value.nelement() for value in given.values()}
    names = [k for k, v in out.items() if POSITIONAL.search(k) and v.nelement() not in sizes]
    if not names:
        return []
    return [
        f"timm resampled {', '.join(names[:2])}{', ...' if len(names) > 2 else ''} to another "
        "image size; to keep them, give the size with --model-arg img_size=N"
    ]


def _fit_as_it_is(checkpoint: Checkpoint, what: str, base: Base) -> Resolved:
    problems = []
    for view in prefix_views(shapes_of(checkpoint.tensors)):
        problem = mismatch_of(base.build, view.shapes, own_code=True)
        if not problem:
            notes = view.notes() if view.left_out else []
            tensors = view.select(checkpoint.tensors)
            return Resolved(base, tensors, (f"the architecture is {base}", *notes))
        problems.append(problem)
    raise InputError(f"{what} does not fit {base}: {problems[0]}")


def _fit_torchvision(
    checkpoint: Checkpoint, what: str, name: str, args: dict[str, Any]
) -> Resolved:
    """Fit torchvision's model, with as many classes as its last layer has rows."""
    base = Base("torchvision", name, args)
    if name in TRANSFORMS_INPUT and "transform_input" not in args:
        base = Base("torchvision", name, {**args, "transform_input": False})
        found = _fit_torchvision(checkpoint, what, name, base.args)
        words = "assumed transform_input=false, which the weights do not show; torchvision's own "
        note = f"{words}want --model-arg transform_input=true"
        return dataclasses.replace(found, notes=(*found.notes, note))
    try:
        return _fit_as_it_is(checkpoint, what, base)
    except InputError:
        shapes = shapes_of(checkpoint.tensors).values()
        rows = next((shape[0] for shape in reversed(shapes) if len(shape) > 1), None)
        if rows is None or "num_classes" in args:
            raise
        with suppress(InputError):
            more = Base("torchvision", name, {**args, "num_classes": rows})
            found = _fit_as_it_is(checkpoint, what, more)
            told = ("read from the shapes: num_classes",)
            return dataclasses.replace(found, notes=(*found.notes, *told))
        raise


def _accepted(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments without an image size, which models of any size do not take."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        return args
    return {k: v for k, v in args.items() if k != "img_size"}


def _cast(tensors: dict[str, Tensor], base: Base, what: str) -> tuple[dict[str, Tensor], list[str]]:
    """Give each tensor the type that a fresh model has, as loading into one would."""
    wanted = on_meta(base.build).state_dict()
    changed = {
        str(value.dtype).removeprefix("torch.")
        for name, value in tensors.items()
        if value.is_floating_point() and value.dtype != wanted[name].dtype
    }
    refuse_types(tensors, wanted, what)
    cast = {name: value.to(wanted[name].dtype) for name, value in tensors.items()}
    notes = [f"{', '.join(sorted(changed))} weights became float32"] if changed else []
    return cast, notes
