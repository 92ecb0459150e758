"""The result of a search, as in ``search.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dcnify._version import __version__

Values = dict[str, float | None]

OFF = 0.2
"""Relative error of a prediction that is corrected."""
NOTHING = 1e-3
"""Damage that is too small to be predicted, or to matter."""


@dataclass(frozen=True)
class Candidate:
    """A layer that could be swapped, and what that alone does."""

    path: str
    becomes: str
    added: dict[str, float]
    """What the swap adds to each cost of the model, as a share."""
    values: Values
    """Damage and agreement with this swap alone; estimated where ``score`` is ``fisher``."""
    sqnr_db: float | None = None
    refused: str = ""
    """Why it cannot be swapped."""
    seconds: float = 0.0


@dataclass(frozen=True)
class ChosenSet:
    """The set that one method chooses."""

    method: str
    paths: tuple[str, ...] | None
    """None where the method finds no set within the budget."""
    predicted: Values = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """A chosen set, predicted and measured."""

    paths: tuple[str, ...]
    predicted: Values
    measured: Values
    missed: tuple[str, ...]
    """Bounds of the budget that it misses."""
    off: dict[str, float]
    """Relative errors of predictions, those of damage and latency."""

    @property
    def is_predicted(self) -> bool:
        """Whether damage and latency came out as predicted."""
        return all(abs(error) <= OFF for error in self.off.values())


@dataclass(frozen=True)
class SearchResult:
    """What a search measured, chose and converted."""

    request: dict[str, Any]
    folder: Path
    budget: tuple[str, ...]
    goal: str
    recipe: str
    source: str
    images: dict[str, Any]
    machine: str
    measure: str
    """The name of the damage: ``kl``, or ``error`` without classes."""
    original: Values
    candidates: tuple[Candidate, ...]
    sets: tuple[ChosenSet, ...]
    rounds: tuple[Round, ...] = ()
    chosen: tuple[str, ...] = ()
    artifact: Values | None = None
    """The artifact as it was measured, where its init is not the one of the search."""
    failure: str = ""
    """Why there is no artifact."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        data = asdict(self)
        return {"dcnify": __version__, **data, "folder": str(self.folder)}
