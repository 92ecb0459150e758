"""Where the parameters of a stage's model are: whole in every process, or sharded (FSDP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dcnify.recipe.finetune.section import Stage

if TYPE_CHECKING:
    from accelerate import Accelerator


class Replicated:
    """Every process has the whole model: one process, or several with DDP."""

    def __init__(self, accelerator: Accelerator, stage: Stage) -> None:
        self.accelerator, self.stage = accelerator, stage

    def check(self, model: nn.Module) -> None:
        """Raise `InputError` if the model or the optimizer cannot be trained in this way."""

    def place(self, model: nn.Module) -> nn.Module:
        """Return the model that the stage trains, on its device; ``model`` is the run's."""
        model.to(self.accelerator.device)
        if self.stage.channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def create_ema(self, model: nn.Module) -> ModelEmaV3 | None:
        """Return a moving average of the weights, if the stage has one."""
        return ModelEmaV3(model, self.stage.ema, use_warmup=True) if self.stage.ema else None

    def prepare(
        self, objective: Any, optimizer: Any, loader: Any, ema: ModelEmaV3 | None
    ) -> tuple[Any, Any, Any]:
        """Return what ``Accelerator.prepare`` does; checkpoints include ``ema``."""
        prepared = self.accelerator.prepare(objective, optimizer, loader)
        if ema is not None:
            self.accelerator.register_for_checkpointing(ema)
        return prepared

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        """Yield what to call for ``model``'s output."""
        yield model

    def weights(self, model: nn.Module, *, here: bool = True) -> dict[str, Tensor]:
        """Return the whole state of the stage's model or its average; every process calls it.

        A process that does not need it ``here`` gets an empty state.
        """
        return model.state_dict() if here else {}

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads; every process calls it."""
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        self.accelerator.load_state(str(folder))

    def release(self) -> None:
        """Free the stage's tensors, once nothing else refers to them."""
