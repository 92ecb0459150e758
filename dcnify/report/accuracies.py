"""The accuracies of a fine-tuning, in words."""

from collections.abc import Mapping
from typing import Any


def accuracy_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model and accuracy: of the original, the converted model, and after each stage."""
    accuracies = {name: summary[name] for name in ("original", "converted")}
    accuracies |= {f"after {stage}": value for stage, value in summary["stages"].items()}
    return [(name, percent(value)) for name, value in accuracies.items()]


def percent(value: float | None) -> str:
    """``88.4%``."""
    return "not measured" if value is None else f"{value:.1%}"
