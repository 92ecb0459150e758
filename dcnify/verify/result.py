"""The result of a verification: every check, and the fidelity as measured again."""

from dataclasses import dataclass
from typing import Any

from dcnify.surgery.result import OutputFidelity, SiteFidelity


@dataclass(frozen=True)
class Check:
    """One thing that was recomputed."""

    name: str
    passed: bool | None
    """None: it could not be made, and ``detail`` says why."""
    value: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Fidelity:
    """How close the artifact's model is to its source, measured again."""

    sites: tuple[SiteFidelity, ...]
    output: OutputFidelity
    images: dict[str, Any]
    """Origin, count and size of the images."""
    untrained: str | None = None
    """Why the source is taken for untrained, if it is."""


@dataclass(frozen=True)
class Verification:
    """Everything that was recomputed from one artifact."""

    path: str
    checks: tuple[Check, ...]
    report: dict[str, Any]
    """The artifact's ``report.json``, as it stands there."""
    fidelity: Fidelity | None = None
    warnings: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that were made and not passed."""
        return tuple(check for check in self.checks if check.passed is False)
