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
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.fit import DoesNotFit, fit_base, fit_timm
from dcnify.sources.identify.layouts import in_published_names
from dcnify.sources.identify.search import Identified, alternatives, nothing_fits, search
from dcnify.sources.identify.torchvision_fit import fit_torchvision, torchvision_fits
from dcnify.sources.materialise import refuse_types
from dcnify.sources.reading.checkpoint import Checkpoint
from dcnify.sources.state_dict import shapes_of


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
        fit = fit_torchvision if kind == "torchvision" else fit_base
        fitted = fit(checkpoint, what, Base(kind, other, args))
        return Resolved(fitted.base, fitted.tensors, fitted.notes)
    original = checkpoint
    checkpoint, notes = _in_published_names(checkpoint)
    said = (checkpoint.arch or "").removeprefix("timm:")
    if said and (":" in said or not timm.is_model(said)):
        notes.append(f"the file names {said}, which is not a timm architecture")
        said = ""
    hint = _fitting_hint(checkpoint, what, args) if not (arch or said) else None
    name = (arch or said or hint or "").removeprefix("timm:")
    if not name:
        found = search(shapes_of(checkpoint.tensors), args, what, on_progress)
        if found is None:
            return _of_torchvision(original, what, args) or nothing_fits(
                shapes_of(checkpoint.tensors), args, what
            )
        name, args = found.candidate.name, {**found.sizes, **args}
        notes += _inferred(found)
    elif not arch:
        notes.append(f"the file says it is {name}")
    elif said and said != name:
        notes.append(f"--arch {name} wins over {said}, which the file names")
    try:
        fitted = fit_timm(name, checkpoint, what, args)
    except DoesNotFit as error:
        others = [*torchvision_fits(original, what), *alternatives(shapes_of(checkpoint.tensors))]
        near = f"; did you mean {' or '.join(map(str, others[:3]))}?" if others else ""
        raise InputError(f"{error}{near}") from None
    notes += fitted.notes
    if fitted.inferred:
        notes.append(f"read from the shapes: {', '.join(fitted.inferred)}")
    tensors, more = _cast(fitted.tensors, fitted.base, what)
    return Resolved(fitted.base, tensors, (*notes, *more))


def _in_published_names(checkpoint: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """Names of other libraries, put into those of the paper's repository or of timm."""
    names = {name: checkpoints.renamed(name) for name in checkpoint.tensors}
    note = "names of InternImage's Hugging Face port, put into those of the original"
    if all(name == published for name, published in names.items()):
        names, library = in_published_names(checkpoint.tensors)
        if library is None:
            return checkpoint, []
        note = f"names of {library}, put into those of the original"
    tensors = {names[name]: value for name, value in checkpoint.tensors.items()}
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


def _of_torchvision(checkpoint: Checkpoint, what: str, args: dict[str, Any]) -> Resolved | None:
    """The one torchvision model that fits, if any."""
    fits = torchvision_fits(checkpoint, what)
    if not fits:
        return None
    if len(fits) > 1:
        listed = " or ".join(fits[:3])
        raise InputError(f"{what} fits {len(fits)} torchvision architectures: say {listed}")
    name = fits[0].rpartition(":")[2]
    fitted = fit_torchvision(checkpoint, what, Base("torchvision", name, args))
    note = f"inferred torchvision:{name}, the only one whose weights have these names and shapes"
    return Resolved(fitted.base, fitted.tensors, (note, *fitted.notes))


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
