"""Who has which part of a stage's model: every process all of it, or each its share (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dcnify.finetune.training.objective import Objective
    from dcnify.recipe.finetune.section import Stage


class Whole:
    """Every process has the whole model: one process, or several with DDP."""

    def __init__(self, accelerator: Accelerator, stage: Stage) -> None:
        self.accelerator, self.stage = accelerator, stage

    def check(self, model: nn.Module) -> None:
        """
        Raises:
            InputError: the stage or the model cannot be trained in this way.
        """

    def take(self, model: nn.Module) -> nn.Module:
        """The model that the stage trains, out of the run's."""
        model.to(self.accelerator.device)
        if self.stage.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def average(self, model: nn.Module) -> ModelEmaV3 | None:
        """Of the weights, where the stage has one."""
        return ModelEmaV3(model, self.stage.ema, use_warmup=True) if self.stage.ema else None

    def prepare(
        self, objective: Objective, optimizer: Any, loader: Any, average: ModelEmaV3 | None
    ) -> tuple[nn.Module, Any, Any]:
        """As accelerate does it, with the average kept in checkpoints."""
        prepared = self.accelerator.prepare(objective, optimizer, loader)
        if average is not None:
            self.accelerator.register_for_checkpointing(average)
        return prepared

    @contextmanager
    def looking_at(self, model: nn.Module) -> Iterator[nn.Module]:
        """What to call with images for ``model``'s answers."""
        yield model

    def weights(self, model: nn.Module, *, here: bool = True) -> dict[str, Tensor]:
        """The state of a model; every process calls it.

        Args:
            model: the stage's, or its average.
            here: whether this process wants it, else it gets nothing.
        """
        return model.state_dict() if here else {}

    def save(self, folder: Path) -> None:
        """Write what `load` needs; every process calls it."""
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        """Inverse of `save`."""
        self.accelerator.load_state(str(folder))

    def let_go(self) -> None:
        """Of what the stage had, when it is over and nothing else has it."""


def sharing(accelerator: Accelerator, stage: Stage) -> Whole:
    """As the launcher wants it."""
    if getattr(accelerator, "is_fsdp2", False):
        from dcnify.finetune.parallel.sharded import Sharded

        return Sharded(accelerator, stage)
    return Whole(accelerator, stage)
