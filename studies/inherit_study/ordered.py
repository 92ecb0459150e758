"""A trial: while the whole model learns, the new layers come in one after the other."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

from torch import Tensor, nn

from dcnify.surgery.build import put_at
from dcnify.surgery.calibrate import train_whole_model as together
from dcnify.surgery.calibrate.distillation_loss import DistillationLoss


def ordered(*, backwards: bool, steps: float) -> AbstractContextManager[Any]:
    """From the input on, or ``backwards`` from the output; all are in place after ``steps``."""
    lesson = functools.partial(_Ordered, backwards=backwards, steps=steps)
    return mock.patch.object(together, "DistillationLoss", lesson)


class _Ordered(DistillationLoss):
    """Old layers stand where the new ones are not due; those learn from them alone until then.

    Which state is kept is judged with all new layers in place, as ever.
    """

    def __init__(self, *loss: Any, backwards: bool, steps: float) -> None:
        super().__init__(*loss)
        self._order = self.swapped[::-1] if backwards else self.swapped
        self._every = steps / (len(self.swapped) - 1)
        self._step = 0

    def _run(
        self, model: nn.Module, images: Tensor, paths: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        with ExitStack() as back:
            if model is self.model:
                for path in self._order[1 + int(self._step / self._every) :]:
                    back.callback(put_at, model, path, model.get_submodule(path))
                    put_at(model, path, self.original.get_submodule(path))
                self._step += 1
            return super()._run(model, images, paths)
