"""The ``finetune`` section of a recipe: the stages in which the converted model is trained.

Each stage holds everything that its training needs to know, so stages can be read, run and
repeated by themselves.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from dcnify.recipe.finetune.presets import no_preset, stage_presets
from dcnify.recipe.finetune.training import Augment, HandOver, Losses, Optimizer, Schedule
from dcnify.recipe.reading.expand import section_written_out, stage_written_out
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.origins import Origins
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
from dcnify.recipe.selection.where import Part

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
    """Keys that a stage may be written with and that are gone once it is read."""

    name: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
    """A name of letters, digits, - and _. It stands in reports and in
    ``--set finetune.stages.NAME...``."""
    train: OneOrMore[Target] = ("all",)
    """What learns: "all", "@swapped" (the new layers), "@norms", "@head" (the classifier), or
    patterns on the paths of modules and parameters, as in ``select``. Everything else is frozen."""
    epochs: Annotated[Number, Field(gt=0)] | None = None
    """Length of the stage in passes through the data; 0.5 is half of one. This or ``steps``."""
    steps: Size | None = None
    """Length of the stage in steps of the optimizer. This or ``epochs``."""
    batch_size: Size = 64
    """Images that one step of the optimizer sees, over all processes and forward passes."""
    accumulate: Size = 1
    """Forward passes that one step is divided into, where memory does not hold it at once."""
    optimizer: Optimizer
    """What takes the steps."""
    schedule: Schedule = Schedule()
    """How the learning rate changes."""
    losses: Losses = Losses()
    """What is minimised."""
    augment: Annotated[Augment, AlsoWord(("none",))] = Augment()
    """How training images are changed; ``none`` shows them as in validation."""
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    """Decay of an average of the weights, which is then what the stage leaves; null for none."""
    amp: Literal["no", "fp16", "bf16"] = "no"
    """Mixed precision of the forward passes."""
    channels_last: Flag = True
    """Keep images and weights in channels_last, as DCNv4 does."""
    compile: Flag = False
    """Run the model through ``torch.compile``."""
    checkpointing: Flag = False
    """Compute activations again in the backward pass, which takes less memory and more time."""
    handover: HandOver | None = None
    """For layers that hand over: when. Without it they stay as they are."""

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


class Finetune(Part):
    """How the converted model is trained: ``dcnify finetune`` carries it out."""

    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] = 0
    """Seed of the order of images, their changes and whatever else is drawn."""
    stages: Annotated[tuple[Annotated[Stage, BeforeValidator(_stage)], ...], Field(min_length=1)]
    """What to train, in order. A stage is a mapping; the name of a preset (``dcnify recipe ls``);
    or a mapping whose ``use`` names one and whose other keys replace the preset's."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

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

    @property
    def origins(self) -> Origins:
        """Where keys and values were written, by paths from here: ``("stages", 0, "train")``."""
        return self._origins
