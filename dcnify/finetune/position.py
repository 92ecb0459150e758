"""Where in a run a training is, and how it got there: plain data, JSON in and out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Position:
    """After ``step`` updates of stage ``stage``; from here a run goes on."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    """Spent training, in all sittings."""
    lines: int = 0
    """Of the metrics file, which has no more from before."""
    best: float | None = None
    """Highest accuracy of the validation so far, over all stages."""
    best_at: tuple[int, int] = (0, 0)
    """Stage and step of it."""
    accuracies: dict[str, float] = field(default_factory=dict)
    """By stage name, the accuracy at its end; ``original`` and ``converted`` among them."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Position:
        """Inverse of `to_dict`.

        Raises:
            ValueError: it is no position.
        """
        try:
            position = cls(**{**data, "best_at": tuple(data["best_at"])})
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error
        if not all(type(n) is int and n >= 0 for n in (position.stage, position.step)):
            raise ValueError("stage and step must be counts")
        return position
