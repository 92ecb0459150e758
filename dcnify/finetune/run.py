"""The training run: what all stages of a fine-tuning share."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcnify.artifact.tensors import compact, without_aliases, write_safetensors
from dcnify.data.labelled import Labelled
from dcnify.errors import DcnifyError
from dcnify.files import write_file
from dcnify.finetune.checkpoints import Checkpoints
from dcnify.finetune.interrupt import Interrupt
from dcnify.finetune.metrics import Reporter
from dcnify.finetune.parallel.processes import from_main
from dcnify.finetune.spec import Options
from dcnify.graph.example import Example
from dcnify.recipe.finetune.section import Finetune, Stage
from dcnify.sources.reading.weight_files import read_safetensors
from dcnify.sources.state_dict import of_version
from dcnify.surgery.handover import finish, handovers
from dcnify.surgery.plan import Plan


@dataclass
class TrainingRun:
    """A fine-tuning under way."""

    model: nn.Module
    """The model in training; its old layers are removed once a stage has finished a handover."""
    swaps: Plan
    """The swaps of ``model`` as it is now."""
    original: nn.Module | None
    """The model from before the conversion, a separate instance; None if it is not available."""
    swapped: Sequence[str]
    """Paths of the swapped layers, in both models."""
    plan: Finetune
    data: Labelled
    config: dict[str, Any]
    """The model's input, as `timm.data.resolve_model_data_config` describes it."""
    folder: Path
    options: Options
    """With the seed and the number of workers filled in."""
    reporter: Reporter
    checkpoints: Checkpoints
    interrupt: Interrupt
    example: Example | None = None
    """How both models are called; None with images alone."""
    started: float = 0.0
    """Reading of ``time.perf_counter()`` when training began, less the time of earlier sittings."""

    @property
    def unlabelled(self) -> bool:
        """Whether the images have no labels, so that the model is compared with the original."""
        return self.data.classes is None

    @property
    def seconds(self) -> float:
        """Time spent training, over all resumptions."""
        return time.perf_counter() - self.started

    @property
    def best(self) -> Path:
        """File of the best weights so far."""
        return self.folder / "best.safetensors"

    def original_for(self, stage: Stage, device: torch.device) -> nn.Module | None:
        """Return the original on the stage's device; None if the stage does not learn from it."""
        if not learns_from_original(stage):
            return None
        if self.original is None:
            raise DcnifyError(f"stage {stage.name} learns from the original, which is not there")
        self.original.to(device).eval().requires_grad_(False)
        if stage.channels_last:
            self.original.to(memory_format=torch.channels_last)
        return self.original

    def finish_handover(self, stage: Stage, *, force: bool = False) -> None:
        """Remove the old layers after a stage that brought their share to 0, or by ``force``."""
        if stage.handover is not None and handovers(self.model):
            self.swaps = finish(self.model, self.swaps, force=force)

    def save_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the best weights so far. A full disk costs them, not the run."""
        state, _ = without_aliases({key: value.detach().cpu() for key, value in weights.items()})
        try:
            write_file(self.best, lambda new: write_safetensors(compact(state), new), True)
        except DcnifyError as error:
            self.reporter.say(f"the best weights so far are not kept: {error}")

    def load_best(self) -> None:
        """Put the best weights so far into the model; every process calls it."""
        if from_main(self.best.exists):  # by then the main process has written them
            best = of_version(read_safetensors(self.best), self.model)
            self.model.load_state_dict(best, strict=False)


def learns_from_original(stage: Stage) -> bool:
    """Whether a loss of the stage compares with the original."""
    losses = stage.losses
    return bool(losses.logits or losses.features or losses.layers)
