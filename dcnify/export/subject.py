"""What is exported: a model, how it is called, and what its file should say of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify._version import __version__
from dcnify.artifact import OpenedModel, open_source, read_artifact
from dcnify.artifact.golden import Golden
from dcnify.artifact.record import Artifact, is_artifact
from dcnify.data.statistics import IMAGENET, UNKNOWN, Statistics
from dcnify.errors import InputError
from dcnify.export.program import cast, with_batch
from dcnify.graph.calls import like_of
from dcnify.graph.capture import twin_of
from dcnify.graph.example import Example
from dcnify.graph.part import example_for
from dcnify.progress import Progress, silent
from dcnify.sources.spec import SourceSpec
from dcnify.surgery.handover import handovers
from dcnify.surgery.plan import Plan
from dcnify.surgery.result import ConvertResult


@dataclass(frozen=True)
class Subject:
    """A model to export."""

    model: nn.Module
    example: Example
    name: str
    statistics: Statistics = UNKNOWN
    plan: Plan | None = None
    recipe: str | None = None
    golden: Golden | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        layers = handovers(self.model)
        if layers:
            path, layer = next(iter(layers.items()))
            raise InputError(
                f"{self.name}: {len(layers)} layers still hand over ({path}: blend "
                f"{layer.blend.item():.3g}), so two layers stand where one will: fine-tune it to "
                "the end of its handover, then export that"
            )

    @property
    def images(self) -> Statistics:
        """How images become the model's input; ImageNet's where that is not known."""
        return self.statistics.over(IMAGENET)

    def metadata(self) -> dict[str, str]:
        """Entries for the exported file."""
        entries = {"dcnify.version": __version__, "dcnify.source": self.name}
        if self.plan is not None:
            entries["dcnify.plan"] = json.dumps(json.loads(self.plan.to_json()))
        if self.recipe is not None:
            entries["dcnify.recipe.sha256"] = hashlib.sha256(self.recipe.encode()).hexdigest()
        for key, value in self.statistics.known().items():
            entries[f"dcnify.{key}"] = json.dumps(value)
        return entries

    def in_float32(self) -> Subject:
        """The same with the weights as float32, to compare with: halves round by themselves.

        What an artifact stores as its output was rounded too, and is left out.
        """
        model = cast(twin_of(self.model), torch.float32)
        example = self.example.to("cpu", torch.float32)
        return dataclasses.replace(self, model=model, example=example, golden=None)

    def in_batches_of(self, count: int) -> Subject:
        """The same called with ``count`` images at least."""
        if len(self.example.images) >= count:
            return self
        return dataclasses.replace(self, example=with_batch(self.example, count))


def open_subject(source: SourceSpec, progress: Progress = silent) -> Subject:
    """Open an artifact, or any other source.

    Raises:
        InputError: it cannot be opened, or its layers still hand over.
    """
    opened = open_source(source, on_progress=progress)
    record = _record_of(source)
    own = record.input_shape[1:] if record is not None else opened.input_size
    example = Example.of(opened.example(source.input_shape(own)))
    if source.part:
        from dcnify.graph.part import call_of_part

        example = call_of_part(opened.model, example, source.part)
    return Subject(
        opened.model,
        example,
        source.source,
        _statistics(record, opened),
        opened.plan,
        record.recipe if record is not None else None,
        _golden(record),
        opened.notes if record is None else (),
    )


def subject_of(model: nn.Module | ConvertResult, example: Any) -> Subject:
    """A model in memory, or the result of a conversion, called as ``example``.

    Raises:
        InputError: it is neither, there is no example, or layers still hand over.
    """
    plan = model.plan if isinstance(model, ConvertResult) else None
    model = model.model if isinstance(model, ConvertResult) else model
    if not isinstance(model, nn.Module):
        raise InputError(
            f"export takes a module, a conversion, or the path of an artifact, not a "
            f"{type(model).__name__}"
        )
    if example is None and plan is not None:
        shape = plan.input_shape
        like = like_of(model)
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)
    if example is None:
        raise InputError(
            "export needs an example of the model's input: example=torch.randn(1, 3, 224, 224)"
        )
    given = example_for(model, example)
    known = Statistics.of(getattr(model, "pretrained_cfg", None) or {})
    return Subject(model, given, type(model).__name__, known, plan)


def _record_of(source: SourceSpec) -> Artifact | None:
    from pathlib import Path

    here = source.kind == "path" and is_artifact(Path(source.source))
    return read_artifact(source.source) if here else None


def _statistics(record: Artifact | None, opened: OpenedModel) -> Statistics:
    said = record.report.get("images") if record is not None else None
    known = Statistics.of(said) if isinstance(said, dict) else UNKNOWN
    return opened.statistics.over(known)


def _golden(record: Artifact | None) -> Golden | None:
    found = None if record is None else record.golden()
    return found if isinstance(found, Golden) else None
