"""The model from before a conversion, as a separate instance: the teacher of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from dcnify.artifact.record import Artifact
from dcnify.artifact.source import Source, open_source
from dcnify.artifact.verify_fidelity import refuse_another
from dcnify.errors import DcnifyError, InputError


@dataclass(frozen=True)
class Original:
    """The model from before, and where its layers went."""

    model: nn.Module
    sites: Mapping[str, str]
    """Paths of the swapped layers in the converted model, by their paths in this one."""


def original_of(record: Artifact, model: nn.Module, source: Source | None = None) -> Original:
    """Open what the artifact was made from.

    Args:
        record: of the artifact.
        model: its model, before anything is trained.
        source: in place of what the artifact names.

    Raises:
        InputError: it is not there any more, or it is another.
    """
    opened = source if source is not None else _recorded(record)
    swaps = refuse_another(record, model, opened)
    return Original(opened.model, {swap.site.path: swap.site.path for swap in swaps})


def _recorded(record: Artifact) -> Source:
    named = record.config["dcnify"].get("source") or {}
    spec, wanted = named.get("spec"), named.get("sha256")
    hint = "name it with --teacher"
    if not isinstance(spec, str):
        raise InputError(f"{record.path} does not say what it was made from: {hint}")
    if spec.startswith("python:"):
        raise InputError(f"{record.path} was made from {spec}, which is code: {hint} to import it")
    try:
        opened = _opened(spec, record)
    except DcnifyError as error:
        raise InputError(f"the model that {record.path} was made from: {error}; {hint}") from error
    if wanted and opened.sha256 != wanted:
        raise InputError(
            f"{spec} has other weights than the model that {record.path} was made from: {hint}"
        )
    return opened


def _opened(spec: str, record: Artifact) -> Source:
    if spec.startswith("timm:"):
        named = record.base.kind == "timm" and spec == f"timm:{record.base.name}"
        args = record.base.args if named else None
        return open_source(spec, pretrained=True, model_args=args)
    base = record.base
    if base.kind == "timm" and not base.name.startswith("flash_"):
        # To find out what is known here takes seconds. Not every source may be told, though.
        with suppress(InputError):
            return open_source(spec, arch=base.name, model_args=base.args)
    return open_source(spec)
