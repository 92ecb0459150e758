"""The model from before a conversion, as a separate instance: the teacher of a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from dcnify.artifact.original_source import recorded_source
from dcnify.artifact.record import Artifact
from dcnify.sources.open import OpenedModel
from dcnify.verify.fidelity import refuse_another


@dataclass(frozen=True)
class Original:
    """The model from before, and where its layers went."""

    model: nn.Module
    sites: Mapping[str, str]
    """Paths of the swapped layers in the converted model, by their paths in this one."""


def original_of(record: Artifact, model: nn.Module, source: OpenedModel | None = None) -> Original:
    """Open what the artifact was made from.

    Args:
        record: of the artifact.
        model: its model, before anything is trained.
        source: in place of what the artifact names.

    Raises:
        InputError: it is not there any more, or it is another.
    """
    opened = source if source is not None else recorded_source(record, "name it with --teacher")
    swaps = refuse_another(record, model, opened)
    return Original(opened.model, {swap.site.path: swap.site.path for swap in swaps})
