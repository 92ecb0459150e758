"""The share of old layers that hand over, along a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dcnify.surgery.handover import cosine_blend, handovers, set_blend

if TYPE_CHECKING:
    from dcnify.recipe.finetune.section import HandOver


class Blend:
    """Sets the blend of a model's layers that hand over, and of its averaged copy.

    Args:
        model: its blend is where it was, and stays there without ``how``.
        how: along which schedule it comes down to 0 in this stage.
    """

    def __init__(self, model: nn.Module, how: HandOver | None) -> None:
        self._model, self._how = model, how
        layers = handovers(model)
        self.value = max((one.blend.item() for one in layers.values()), default=None)

    @property
    def over(self) -> bool:
        """Whether no old layer has a share any more."""
        return not self.value

    def at(self, step: int, steps: int, averaged: nn.Module | None) -> None:
        """Set it for the update after ``step`` of ``steps``; at least one step is past 1."""
        if self.value is None or self._how is None:
            return
        until = max(1, round(self._how.until * steps))
        done = min(1.0, (step + 1) / until)
        self.value = cosine_blend(step + 1, until) if self._how.schedule == "cosine" else 1 - done
        for model in (self._model, averaged):
            if model is not None:
                set_blend(model, self.value)
