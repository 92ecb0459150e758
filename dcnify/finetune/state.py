"""The state of a training run that a checkpoint records beside the tensors, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from dcnify.spec import Spec


@dataclass(frozen=True)
class TrainingState(Spec):
    """Where a run is: after ``step`` updates of stage ``stage``."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent training, over all resumptions."""
    lines: int = 0
    """Lines of the metrics file so far."""
    best: float | None = None
    """Highest validation accuracy so far, over all stages."""
    best_at: tuple[int, int] = (0, 0)
    """Stage and step of the highest accuracy."""
    accuracies: dict[str, float] = field(default_factory=dict)
    """Accuracy at the end of each stage by its name, and of ``original`` and ``converted``."""

    def __post_init__(self) -> None:
        if not all(type(n) is int and n >= 0 for n in (self.stage, self.step)):
            raise ValueError("stage and step must be counts")
