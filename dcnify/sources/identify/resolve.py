"""Resolve a checkpoint: decide which architecture it belongs to, and fit its tensors to that."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor

from dcnify.errors import InputError
from dcnify.models import checkpoints
from dcnify.progress import Progress, silent
from dcnify.sources.base import Base
from dcnify.sources.checkpoint import Checkpoint
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.fit import DoesNotFit, Fitted, NoPartFits, fit_base, fit_timm
from dcnify.sources.identify.search import Identified, alternatives, identify
from dcnify.sources.materialise import refuse_types
from dcnify.sources.state_dict import shapes_of
from dcnify.sources.torchvision_models import TRANSFORMS_INPUT


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
    if kind in ("python", "torchvision"):
        fit = _fit_torchvision if kind == "torchvision" else fit_base
        fitted = fit(checkpoint, what, Base(kind, other, args))
        return Resolved(fitted.base, fitted.tensors, fitted.notes)
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
        fitted = fit_timm(name, checkpoint, what, args)
    except DoesNotFit as error:
        others = alternatives(shapes_of(checkpoint.tensors))
        near = f"; did you mean {' or '.join(map(str, others[:3]))}?" if others else ""
        raise InputError(f"{error}{near}") from None
    notes += fitted.notes
    if fitted.inferred:
        notes.append(f"read from the shapes: {', '.join(fitted.inferred)}")
    tensors, more = _cast(fitted.tensors, fitted.base, what)
    return Resolved(fitted.base, tensors, (*notes, *more))


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
        fit_timm(hint, checkpoint, what, args)
    except InputError:
        return None
    return hint


def _fit_torchvision(checkpoint: Checkpoint, what: str, base: Base) -> Fitted:
    """Fit torchvision's model, with as many classes as its last layer has rows."""
    notes: tuple[str, ...] = ()
    if base.name in TRANSFORMS_INPUT and "transform_input" not in base.args:
        base = Base(base.kind, base.name, {**base.args, "transform_input": False})
        words = "assumed transform_input=false, which the weights do not show; torchvision's own "
        notes = (f"{words}want --model-arg transform_input=true",)
    try:
        found = fit_base(checkpoint, what, base)
    except NoPartFits as error:
        reshaped = error.mismatch.reshaped
        rows = {file[0] for _, file, model in reshaped if file[1:] == model[1:]}
        if len(rows) != 1 or "num_classes" in base.args:
            raise
        try:
            more = Base(base.kind, base.name, {**base.args, "num_classes": rows.pop()})
            found = fit_base(checkpoint, what, more)
        except InputError:
            raise error from None
        notes = (*notes, "read from the shapes: num_classes")
    return dataclasses.replace(found, notes=(*found.notes, *notes))


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
