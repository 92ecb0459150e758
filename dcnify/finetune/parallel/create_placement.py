"""Choose where the parameters of a stage's model are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcnify.finetune.parallel.placement import Replicated

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dcnify.recipe.finetune.section import Stage


def create_placement(accelerator: Accelerator, stage: Stage) -> Replicated:
    """Return the placement that the launcher asks for."""
    if getattr(accelerator, "is_fsdp2", False):
        from dcnify.finetune.parallel.sharded import Sharded

        return Sharded(accelerator, stage)
    return Replicated(accelerator, stage)
