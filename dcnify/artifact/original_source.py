"""Reopen the original model of a conversion from the source that its artifact records."""

from __future__ import annotations

from contextlib import suppress

from dcnify.artifact.open import open_source
from dcnify.artifact.record import Artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.sources.open import OpenedModel


def recorded_source(record: Artifact, hint: str, *, weights: bool = True) -> OpenedModel:
    """Open the source that an artifact was converted from.

    Args:
        record: the artifact.
        hint: advice that ends an error: ``name it with --against``.
        weights: require the weights that were converted. If false, those of ``timm:`` are random
            and need no network.

    Raises:
        InputError: no source is recorded, it is gone, or it has other weights.
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


def _opened(spec: str, record: Artifact, weights: bool) -> OpenedModel:
    if spec.startswith("timm:"):
        named = record.base.kind == "timm" and spec == f"timm:{record.base.name}"
        args = record.base.args if named else None
        return open_source(spec, pretrained=weights, model_args=args)
    base = record.base
    if base.kind == "timm" and not base.name.startswith("flash_"):
        # Saves seconds of inference; not every source takes these options, though.
        with suppress(InputError):
            return open_source(spec, arch=base.name, model_args=base.args)
    return open_source(spec)
