"""What all stages of a fine-tuning share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcnify.artifact.tensors import compact, without_aliases, write_safetensors
from dcnify.errors import DcnifyError
from dcnify.finetune.checkpoints import Checkpoints
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Metrics, Watch
from dcnify.surgery.handover import finish, handovers
from dcnify.surgery.plan import Plan

if TYPE_CHECKING:
    from dcnify.data.labelled import Labelled
    from dcnify.recipe.finetune.section import Finetune, Stage


@dataclass
class Run:
    """A fine-tuning under way."""

    model: nn.Module
    """What is trained; its old layers go when a stage's handover is over."""
    swaps: Plan
    """Of the model as it is."""
    original: nn.Module | None
    """The model from before the conversion, a separate instance; None where no stage needs it."""
    sites: Mapping[str, str]
    """Paths of the swapped layers, by their paths in the original."""
    plan: Finetune
    """The stages."""
    data: Labelled
    config: dict[str, Any]
    """What timm says of the model's input."""
    classes: int
    folder: Path
    seed: int
    cpu: bool
    workers: int
    look_every: int | None
    """Steps between validations; None for every epoch."""
    keep_every: int | None
    """Steps between checkpoints; None for every epoch."""
    metrics: Metrics
    checkpoints: Checkpoints
    interrupt: Interrupt
    watch: Watch
    looked: Callable[[str, int, float], None]
    """Hears of every validation: stage, step, accuracy."""
    say: Callable[[str], None]
    best: Path = field(init=False)
    """Weights of the best model so far, where it was looked at."""

    def __post_init__(self) -> None:
        self.best = self.folder / "best.safetensors"

    def original_for(self, stage: Stage, device: torch.device) -> nn.Module | None:
        """The original on the stage's device, if the stage learns from it."""
        if not learns_from_original(stage):
            return None
        if self.original is None:
            raise DcnifyError(f"stage {stage.name} learns from the original, which is not there")
        self.original.to(device).eval().requires_grad_(False)
        if stage.channels_last:
            self.original.to(memory_format=torch.channels_last)
        return self.original

    def images_after(self, index: int, epoch: int) -> int:
        """Images that the stages after ``index`` will see, if their epochs are as long."""
        total = 0
        images = epoch * self.plan.stages[index].batch_size
        for stage in self.plan.stages[index + 1 :]:
            steps = stage.steps or round((stage.epochs or 0) * images / stage.batch_size)
            total += steps * stage.batch_size
        return total

    def finish_handover(self, stage: Stage, *, force: bool = False) -> None:
        """Take the old layers out, once a stage has brought their share to 0.

        Args:
            stage: that is over.
            force: whatever their share is in the model at hand.
        """
        if stage.handover is not None and handovers(self.model):
            self.swaps = finish(self.model, self.swaps, force=force)

    def keep_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the weights of the best model so far. A full disk costs them, not the run."""
        state, _ = without_aliases({key: value.detach().cpu() for key, value in weights.items()})
        new = self.best.with_name(f".{self.best.name}.new")
        try:
            write_safetensors(compact(state), new)
            new.replace(self.best)
        except (DcnifyError, OSError) as error:
            self.say(f"the best weights so far are not kept: {error}")


def learns_from_original(stage: Stage) -> bool:
    """Whether a loss of the stage compares with the original."""
    losses = stage.losses
    return bool(losses.logits or losses.features or losses.layers)
