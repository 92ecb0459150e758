"""The blend of old and new layers over the steps of a stage."""

from torch import nn

from dcnify.recipe.finetune.section import HandOver
from dcnify.surgery.handover import cosine_blend, handovers, set_blend


class HandoverSchedule:
    """Lowers the blend of the layers that hand over, in a model and its averaged copy.

    Without ``how``, the schedule of this stage, the model keeps the blend that it has.
    """

    def __init__(self, model: nn.Module, how: HandOver | None) -> None:
        self._model, self._how = model, how
        layers = handovers(model)
        self.blend = max((one.blend.item() for one in layers.values()), default=None)

    @property
    def over(self) -> bool:
        """Whether only the new layers run."""
        return not self.blend

    def set(self, step: int, steps: int, averaged: nn.Module | None) -> None:
        """Set the blend for the update that follows ``step`` of ``steps`` updates."""
        if self.blend is None or self._how is None:
            return
        until = max(1, round(self._how.until * steps))
        done = min(1.0, (step + 1) / until)
        self.blend = cosine_blend(step + 1, until) if self._how.schedule == "cosine" else 1 - done
        for model in (self._model, averaged):
            if model is not None:
                set_blend(model, self.blend)
