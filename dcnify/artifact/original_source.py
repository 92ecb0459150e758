"""Reopen the original model of a conversion, and check that a model is that original."""

from collections.abc import Sequence
from contextlib import suppress

from torch import nn

from dcnify.artifact.open import open_source
from dcnify.artifact.record import Artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.sources.base import Base
from dcnify.sources.open import OpenedModel
from dcnify.sources.state_dict import compare, shapes_of
from dcnify.surgery.plan import PlannedSwap
from dcnify.surgery.prepare import prepare


def recorded_source(record: Artifact, hint: str, *, weights: bool = True) -> OpenedModel:
    """Open the source that an artifact was converted from.

    ``hint`` is advice that ends an error: ``name it with --against``. Without ``weights``, those of
    ``timm:`` are random and need no network.
    """
    named = record.config["dcnify"].get("source") or {}
    spec, wanted = named.get("spec"), named.get("sha256")
    if not isinstance(spec, str):
        raise InputError(f"{record.path} does not say what it was made from: {hint}")
    if spec.startswith("python:"):
        raise InputError(f"{record.path} was made from {spec}, which is code: {hint} to import it")
    try:
        opened = _opened(spec, record, weights)
    except DcnifyError as error:
        raise InputError(f"the model that {record.path} was made from: {error}; {hint}") from error
    if weights and wanted and opened.sha256 != wanted:
        raise InputError(
            f"{spec} has other weights than the model that {record.path} was made from: {hint}"
        )
    return opened


def swaps_between(
    record: Artifact, model: nn.Module, source: OpenedModel
) -> tuple[PlannedSwap, ...]:
    """Return the swaps between ``source`` and ``model``, the artifact's; refuse another original.

    That is a source of another architecture than what the artifact was made from, or one that has
    all of its new layers already.
    """
    base, other = record.base, source.base
    if other is not None and not _alike(other, base):
        given = f"{other}" if source.spec == str(other) else f"{other}, which {source.spec} is"
        raise InputError(
            f"{record.path} was made from {base}, not from {given}: "
            "give the model that it was converted from"
        )
    done = {swap.site.path for swap in source.plan.swaps} if source.plan else set()
    swaps = tuple(swap for swap in record.plan.swaps if swap.site.path not in done)
    if record.plan.swaps and not swaps:
        raise InputError(
            f"{source.spec} has the new layers of {record.path} already: "
            "give the model that it was converted from"
        )
    problem = _difference(record, model, source.model, swaps)
    if problem:
        raise InputError(
            f"{source.spec} is not what {record.path} was made from ({base}): {problem}"
        )
    return swaps


def _opened(spec: str, record: Artifact, weights: bool) -> OpenedModel:
    base = record.base
    kind, _, name = spec.partition(":")
    if kind in ("timm", "torchvision"):
        named = base.kind == kind and name.partition(".")[0] == base.name.partition(".")[0]
        return open_source(spec, pretrained=weights, model_args=base.args if named else None)
    if base.kind == "timm" and not base.name.startswith("flash_"):
        # Saves seconds of inference; not every source takes these options, though.
        with suppress(InputError):
            return open_source(spec, arch=base.name, model_args=base.args)
    return open_source(spec)


def _alike(source: Base, base: Base) -> bool:
    """Whether both are of one architecture; InternImage may have been turned into Flash."""
    if source.kind != base.kind:
        return True  # a checkpoint of the same model may be opened in more than one way
    mine, theirs = source.name.partition(".")[0], base.name.partition(".")[0]
    return theirs in (mine, f"flash_{mine}")


def _difference(
    record: Artifact, model: nn.Module, source: nn.Module, swaps: Sequence[PlannedSwap]
) -> str:
    """Why the source is not the model that the swaps were made on; empty if it is.

    The source is given the structure that the swaps were made on.
    """
    try:
        prepare(source, record.plan)
    except InputError as error:
        return str(error)
    places = [path for swap in swaps for path in (swap.site.path, *swap.site.aliases)]
    inside = tuple(f"{path}." for path in places)
    trimmed = {f"{path}.bias" for path in record.plan.trims}
    old, new = (
        {k: v for k, v in shapes_of(one).items() if not k.startswith(inside) and k not in trimmed}
        for one in (source, model)
    )
    problem = compare(old, new)
    if problem:
        return str(problem)
    for swap in swaps:
        try:
            layer = source.get_submodule(swap.site.path)
        except AttributeError:
            return f"it has no {swap.site.path}"
        count = sum(parameter.numel() for parameter in layer.parameters())
        if count != swap.site.parameters:
            was = swap.site.parameters
            return f"its {swap.site.path} has {count:,} parameters, the one replaced had {was:,}"
    return ""
