"""Refuse a stage that cannot run before the first one takes hours."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from dcnify.data.labelled import Labelled
from dcnify.errors import InputError
from dcnify.finetune.parallel.accelerator import check_divides, create_accelerator, create_placement
from dcnify.finetune.training.loaders import steps_of, training_loader
from dcnify.finetune.training.optimizer import create_optimizer
from dcnify.finetune.training.selection import require_only, trained_by
from dcnify.recipe.finetune.section import Finetune, Stage


def check_stages(
    plan: Finetune,
    model: nn.Module,
    swapped: Sequence[str],
    data: Labelled,
    config: dict[str, Any],
    *,
    cpu: bool,
) -> None:
    """Set up the cheap parts of each stage, and discard them.

    Raises `InputError`, which names the stage, if one cannot run.
    """
    required = [(one, one.requires_grad) for one in model.parameters()]
    for stage in plan.stages:
        try:
            _check(stage, model, swapped, data, config, cpu)
        except InputError as error:
            named = str(error).startswith(f"stage {stage.name}: ")
            raise InputError(str(error) if named else f"stage {stage.name}: {error}") from error
        finally:
            for parameter, before in required:
                parameter.requires_grad_(before)


def check_labels(stage: Stage, data: Labelled, other_stages: str = "-r distil") -> None:
    """Raise `InputError` if the stage learns from labels that the images do not have.

    ``other_stages`` is the option that chooses stages without labels.
    """
    if stage.losses.labels and data.classes is None:
        raise InputError(
            "losses.labels: the images have no labels; name images with labels by --data, or train "
            f"without them: {other_stages}"
        )


def _check(
    stage: Stage,
    model: nn.Module,
    swapped: Sequence[str],
    data: Labelled,
    config: dict[str, Any],
    cpu: bool,
) -> None:
    accelerator = create_accelerator(stage, 0, cpu=cpu)
    check_divides(stage, accelerator.num_processes)
    name = type(model).__name__
    if stage.losses.labels and not getattr(model, "num_classes", None):
        raise InputError("losses.labels: the model has no classifier; give labels a weight of 0")
    check_labels(stage, data)
    if stage.checkpointing and not hasattr(model, "set_grad_checkpointing"):
        raise InputError(f"checkpointing: {name} has no set_grad_checkpointing: set it to false")
    if stage.optimizer.layer_decay is not None and not hasattr(model, "group_matcher"):
        raise InputError(f"optimizer.layer_decay: {name} has no group_matcher: set it to null")
    create_placement(accelerator, stage).check(model)
    steps_of(stage, training_loader(data.train, stage, config, 0))
    require_only(model, trained_by(model, stage.train, swapped))
    create_optimizer(model, stage.optimizer, stage.batch_size)
