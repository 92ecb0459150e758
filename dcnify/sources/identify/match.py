"""From a file's state dict to a base and tensors that fit it: which architecture, which names."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
from torch import Tensor

from dcnify.errors import InputError
from dcnify.models import checkpoints
from dcnify.progress import Progress
from dcnify.sources.base import Base
from dcnify.sources.compare import readings, shapes_of
from dcnify.sources.contents import Contents
from dcnify.sources.identify.architecture import Identified, alternatives, identify
from dcnify.sources.identify.architecture_args import POSITIONAL, Fit, fit
from dcnify.sources.identify.features_only import whole_names
from dcnify.sources.identify.paper_layout import renamed
from dcnify.sources.materialise import mismatch_of
from dcnify.sources.skeleton import at_most, on_meta
from dcnify.sources.timm_models import create

_RENAMED = "names of the original repository, put into timm's by timm"


@dataclass(frozen=True)
class Match:
    """A base, and a file's tensors under the names and in the types that it has."""

    base: Base
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def match(
    contents: Contents,
    what: str,
    *,
    arch: str | None,
    args: dict[str, Any],
    on_progress: Progress | None = None,
) -> Match:
    """Decide which architecture a state dict belongs to, and fit it strictly.

    The architecture is, in this order, what the user says, what the file says, and what the shapes
    tell. So are its arguments.

    Args:
        contents: the state dict and what its file says.
        what: the file, for messages.
        arch: a timm name, or ``python:package.module:factory``, that the user gave.
        args: arguments that the user gave.
        on_progress: called while architectures are compared.

    Raises:
        InputError: no architecture fits, several do, or the one that was named does not.
    """
    if arch and arch.startswith("python:"):
        return _match_own(contents, what, Base("python", arch.removeprefix("python:"), args))
    contents, notes = _in_published_names(contents)
    said = (contents.arch or "").removeprefix("timm:")
    if said and (":" in said or not timm.is_model(said)):
        notes.append(f"the file names {said}, which is no timm architecture")
        said = ""
    name = (arch or said).removeprefix("timm:")
    if not name and _fits_hint(contents, what, args):
        name = contents.hint
        notes.append(f"the file says it is {name}")
    elif not name:
        found = identify(shapes_of(contents.tensors), args, what, on_progress)
        name, args = found.fit.name, {**found.sizes, **args}
        notes += _inferred(found)
    elif arch:
        if said and said != name:
            notes.append(f"--arch {name} wins over {said}, which the file names")
    else:
        notes.append(f"the file says it is {name}")
    try:
        best, tensors, more = _named(name, contents, what, args)
    except _DoesNotFit as error:
        raise InputError(f"{error}{_did_you_mean(contents)}") from None
    notes += more
    if best.read:
        notes.append(f"read from the shapes: {', '.join(best.read)}")
    base = Base("timm", name, best.args)
    fitted, cast = _cast(tensors, base)
    return Match(base, fitted, (*notes, *cast))


class _DoesNotFit(InputError):
    """The architecture that was named has other weights."""


def _in_published_names(contents: Contents) -> tuple[Contents, list[str]]:
    """InternImage's Hugging Face port has names of its own for the same tensors."""
    names = {name: checkpoints.renamed(name) for name in contents.tensors}
    if all(name == published for name, published in names.items()):
        return contents, []
    tensors = {names[name]: value for name, value in contents.tensors.items()}
    note = "names of InternImage's Hugging Face port, put into those of the original"
    return dataclasses.replace(contents, tensors=tensors), [note]


def _inferred(found: Identified) -> list[str]:
    name = found.fit.name
    if not found.sizes:
        return [
            f"inferred {name}, the only one of {found.examined} architectures compared whose "
            "weights have these names and shapes"
        ]
    notes = [f"inferred an InternImage of sizes of its own: {found}"]
    if found.assumed:
        assumed = ", ".join(f"{key}={value}" for key, value in found.assumed.items())
        notes.append(f"assumed {assumed}, not told by the weights: set with --model-arg")
    return notes


def _did_you_mean(contents: Contents) -> str:
    found = alternatives(shapes_of(contents.tensors))
    return f"; did you mean {' or '.join(map(str, found[:3]))}?" if found else ""


def _fits_hint(contents: Contents, what: str, args: dict[str, Any]) -> bool:
    """Whether the file's ``arch`` is a timm model that its weights fit, not just a class's name."""
    hint = contents.hint or ""
    if not hint or ":" in hint or not timm.is_model(hint):
        return False
    try:
        _named(hint, contents, what, args)
    except InputError:
        return False
    return True


def _named(
    name: str, contents: Contents, what: str, args: dict[str, Any]
) -> tuple[Fit, dict[str, Tensor], list[str]]:
    """Fit the state dict to the timm model ``name``."""
    attempts: list[dict[str, Any]] = [args]
    if contents.arch and contents.arch.removeprefix("timm:") == name and contents.args:
        said = _accepted(name, contents.args)
        attempts = [{**said, **args}, {**_shape_free(said), **args}, args]
    closest: Fit | None = None
    failed: InputError | None = None
    for number, attempt in enumerate(attempts):
        for reading in readings(shapes_of(contents.tensors)):
            limit = 4 * len(reading.shapes) + 1000
            watch, part = partial(at_most, limit), bool(reading.left_out)
            try:
                tried = fit(name, reading.shapes, attempt, watch=watch, part=part)
            except OverflowError:
                raise _DoesNotFit(
                    f"{name} has over {limit} parameters, {what} {len(reading.shapes)}"
                ) from None
            except InputError as error:
                failed = failed or error
                break
            if not tried.mismatch:
                notes = reading.notes()
                if number:
                    notes.append("left out options in the file that its weights contradict")
                tensors, more = _under_its_names(tried, reading.take(contents.tensors), args)
                return tried, tensors, [*notes, *more]
            if closest is None or len(tried.mismatch) < len(closest.mismatch):
                closest = tried
    if closest is None:
        raise failed or InputError(f"{what} does not fit {name}")
    model = on_meta(lambda: create(name, args))
    for reading in readings(shapes_of(contents.tensors)):
        tensors = reading.take(contents.tensors)
        out = renamed(name, tensors, args, model)
        if out is not None:
            notes = [_RENAMED, *_resampled(tensors, out), *_dropped(tensors, out)]
            return fit(name, shapes_of(out), args), out, [*reading.notes(), *notes]
    raise _DoesNotFit(f"{what} does not fit {name}: {closest.mismatch}")


def _under_its_names(
    found: Fit, tensors: dict[str, Tensor], args: dict[str, Any]
) -> tuple[dict[str, Tensor], list[str]]:
    """A model that gives feature maps has names of its own for the weights of the whole one."""
    if not found.args.get("features_only"):
        return tensors, []
    names = whole_names(shapes_of(on_meta(lambda: create(found.name, found.args))), tensors)
    held = {own: tensors[whole] for own, whole in names.items() if whole in tensors}
    note = "no classifier is with the weights: the model gives feature maps (features_only)"
    return held, [] if args.get("features_only") else [note]


def _dropped(given: dict[str, Tensor], out: dict[str, Tensor]) -> list[str]:
    count = len(given) - len(out)
    return [f"renaming left out {count} of {len(given)} tensors"] if count > 0 else []


def _resampled(given: dict[str, Tensor], out: dict[str, Tensor]) -> list[str]:
    """Say so where renaming also stretched position embeddings, which changes the function."""
    sizes = {value.nelement() for value in given.values()}
    names = [k for k, v in out.items() if POSITIONAL.search(k) and v.nelement() not in sizes]
    if not names:
        return []
    return [
        f"timm resampled {', '.join(names[:2])}{', ...' if len(names) > 2 else ''} to another "
        "image size; to keep them, give the size with --model-arg img_size=N"
    ]


def _match_own(contents: Contents, what: str, base: Base) -> Match:
    first = None
    for reading in readings(shapes_of(contents.tensors)):
        problem = mismatch_of(base.build, reading.shapes, own_code=True)
        if not problem:
            tensors = reading.take(contents.tensors)
            left_out = reading.notes() if reading.left_out else ()
            return Match(base, tensors, (f"the architecture is {base}", *left_out))
        first = first or problem
    raise InputError(f"{what} does not fit {base}: {first}")


def _accepted(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments without an image size, which models of any size do not take."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        return args
    return {k: v for k, v in args.items() if k != "img_size"}


def _shape_free(args: dict[str, Any]) -> dict[str, Any]:
    """The arguments that the shapes do not tell better."""
    return {k: v for k, v in args.items() if k not in ("num_classes", "in_chans", "img_size")}


def _cast(tensors: dict[str, Tensor], base: Base) -> tuple[dict[str, Tensor], list[str]]:
    """Give each tensor the type that a fresh model has, as loading into one would."""
    wanted = on_meta(base.build).state_dict()
    changed = {
        str(value.dtype).removeprefix("torch.")
        for name, value in tensors.items()
        if value.is_floating_point() and value.dtype != wanted[name].dtype
    }
    cast = {name: value.to(wanted[name].dtype) for name, value in tensors.items()}
    notes = [f"{', '.join(sorted(changed))} weights became float32"] if changed else []
    return cast, notes
