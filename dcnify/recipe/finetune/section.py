"""The ``finetune`` section of a recipe: the stages in which the converted model is trained.

A stage is complete by itself, so stages can be read, run and repeated separately.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from dcnify.recipe.finetune.presets import no_preset, stage_presets
from dcnify.recipe.finetune.training import Augment, HandOver, Losses, Optimizer, Schedule
from dcnify.recipe.part import Document, Part
from dcnify.recipe.reading.expand import section_written_out, stage_written_out
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.shorthand import (
    AlsoWord,
    Flag,
    Number,
    OneOrMore,
    Pattern,
    Size,
    Text,
    refuse,
    shown,
)

GROUPS = ("@swapped", "@norms", "@head")


def _target(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("@") and value not in GROUPS:
        hint = did_you_mean(value, GROUPS) or f"; there is {', '.join(GROUPS)}"
        raise refuse(f"unknown group {shown(value)}{hint}")
    return value


Target = Annotated[Pattern, BeforeValidator(_target)]


class Stage(Part):
    """One phase of training, with an optimizer and a schedule of its own."""

    short_keys: ClassVar[tuple[str, ...]] = ("use",)
    """Keys that a stage may be written with and that are resolved when it is read."""

    name: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
    """A name of letters, digits, - and _. It stands in reports and in
    ``--set finetune.stages.NAME...``."""
    train: OneOrMore[Target] = ("all",)
    """Parameters that learn: "all", "@swapped" (the new layers), "@norms", "@head" (the
    classifier), or patterns on paths of modules and parameters, as in ``select``. All others are
    frozen."""
    epochs: Annotated[Number, Field(gt=0)] | None = None
    """Length of the stage in passes through the data; 0.5 is half of one. This or ``steps``."""
    steps: Size | None = None
    """Length of the stage in steps of the optimizer. This or ``epochs``."""
    batch_size: Size = 64
    """Images of one step of the optimizer, over all processes and forward passes."""
    accumulate: Size = 1
    """Forward passes that one step is divided into, to save memory."""
    optimizer: Optimizer
    """Optimizer and learning rate."""
    schedule: Schedule = Schedule()
    """Schedule of the learning rate."""
    losses: Losses = Losses()
    """Loss terms and their weights."""
    augment: Annotated[Augment, AlsoWord(("none",))] = Augment()
    """Augmentation of training images; ``none`` leaves them as in validation."""
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights, which the stage then ends with; null for none."""
    batch_norm: Literal["train", "eval"] = "train"
    """Batch norms in training: ``train`` normalises by the batch and moves the statistics, ``eval``
    uses those that are there and keeps them."""
    amp: Literal["no", "fp16", "bf16"] = "no"
    """Mixed precision of the forward passes."""
    channels_last: Flag = True
    """Keep images and weights in channels_last, as DCNv4 does."""
    compile: Flag = False
    """Run the model through ``torch.compile``."""
    checkpointing: Flag = False
    """Recompute activations in the backward pass: less memory, more time."""
    handover: HandOver | None = None
    """Schedule of the layers that hand over; without it their share stays."""

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return stage_written_out(value)

    @model_validator(mode="after")
    def _one_end(self) -> Stage:
        if self.epochs is not None and self.steps is not None:
            raise refuse("epochs are given too; a stage has one length", at=("steps",))
        if self.epochs is None and self.steps is None:
            raise refuse("missing key 'epochs' or 'steps', the length of the stage")
        return self

    @model_validator(mode="after")
    def _equal_passes(self) -> Stage:
        if self.batch_size % self.accumulate:
            words = f"{self.accumulate} passes do not divide a batch of {self.batch_size}"
            raise refuse(words, at=("accumulate",))
        return self


def _stage(value: Any) -> Any:
    name = value.get("use") if isinstance(value, dict) else value
    below = ("use",) if isinstance(value, dict) else ()
    if isinstance(value, Stage) or (isinstance(value, dict) and "use" not in value):
        return value
    if not isinstance(name, str):
        words = f"the name of a stage preset ({', '.join(stage_presets())})"
        words = words if below else f"a mapping or {words}"
        raise refuse(f"expected {words}, got {shown(name)}", at=below)
    if name not in stage_presets():
        raise refuse(no_preset(name), at=below)
    return stage_written_out(value)


class Finetune(Document):
    """The training of the converted model by ``dcnify finetune``."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] = 0
    """Seed of everything random: order of images, augmentation, dropout."""
    stages: Annotated[tuple[Annotated[Stage, BeforeValidator(_stage)], ...], Field(min_length=1)]
    """The stages, in order. A stage is a mapping; the name of a preset (``dcnify recipe ls``);
    or a mapping whose ``use`` names one and whose other keys replace the preset's."""

    @model_validator(mode="before")
    @classmethod
    def _section(cls, value: Any) -> Any:
        return section_written_out(value)

    @model_validator(mode="after")
    def _names_differ(self) -> Finetune:
        names = [stage.name for stage in self.stages]
        for i, name in enumerate(names):
            if name in names[:i]:
                words = f"a second stage named {name!r}; names must differ"
                raise refuse(words, at=("stages", i, "name"))
        return self
