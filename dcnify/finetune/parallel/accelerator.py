"""Accelerate, set up for one stage: device, processes, precision, accumulation, data order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcnify.errors import InputError
from dcnify.finetune.parallel.fsdp import create_plugin
from dcnify.finetune.parallel.placement import Replicated
from dcnify.finetune.parallel.processes import on_cpu
from dcnify.recipe.finetune.section import Stage
from dcnify.words import first_line

if TYPE_CHECKING:
    from accelerate import Accelerator


def create_accelerator(stage: Stage, seed: int, *, cpu: bool) -> Accelerator:
    """Create an `Accelerator` for ``stage``, whatever the settings of the stage before.

    Processes and devices are the launcher's: none, ``torchrun`` or ``accelerate launch``. Raises
    `InputError` if the device does not support the stage's precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import (
        DataLoaderConfiguration,
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
    )

    # Accelerate sets the precision once per process, but stages may differ. Process groups stay.
    # The rest of the state must go with FSDP, which is only set up if the state does not have it.
    sharding = create_plugin()
    AcceleratorState._reset_state(reset_partial_state=sharding is not None)
    GradientState._reset_state()
    data = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=seed)
    passes = GradientAccumulationPlugin(
        num_steps=stage.accumulate, sync_with_dataloader=False, adjust_scheduler=False
    )
    try:
        made = Accelerator(
            cpu=on_cpu(cpu),
            mixed_precision=stage.amp,
            gradient_accumulation_plugin=passes,
            dataloader_config=data,
            fsdp_plugin=sharding,
            # Old layers that hand over leave and come back into use as the blend goes down.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except (ValueError, RuntimeError, ImportError) as error:
        words = first_line(error)
        raise InputError(f"stage {stage.name}: amp {stage.amp} cannot run here: {words}") from error
    if stage.amp == "fp16" and made.device.type == "cpu":
        raise InputError(f"stage {stage.name}: amp fp16 needs a GPU: set it to bf16 or no")
    return made


def create_placement(accelerator: Accelerator, stage: Stage) -> Replicated:
    """Choose where the parameters of a stage's model are kept, as the launcher asks."""
    if getattr(accelerator, "is_fsdp2", False):
        from dcnify.finetune.parallel.sharded import Sharded

        return Sharded(accelerator, stage)
    return Replicated(accelerator, stage)


def check_divides(stage: Stage, processes: int) -> None:
    """Raise `InputError` unless processes and passes divide the stage's batch."""
    share, rest = divmod(stage.batch_size, stage.accumulate * processes)
    if rest or not share:
        raise InputError(
            f"stage {stage.name}: a batch of {stage.batch_size} cannot be dealt out to "
            f"{processes} processes in {stage.accumulate} passes each"
        )
