"""The state of a training run that a checkpoint records beside the tensors, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TrainingState:
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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingState:
        """Read what `to_dict` returned.

        Raises:
            ValueError: a key is missing or unknown, or a count is not one.
        """
        try:
            state = cls(**{**data, "best_at": tuple(data["best_at"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        if not all(type(n) is int and n >= 0 for n in (state.stage, state.step)):
            raise ValueError("stage and step must be counts")
        return state
