"""What a trial measures: name, direction and how it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dcnify.report.quantity import (
    COSINE,
    DECIBEL,
    KL,
    MILLISECONDS,
    PERCENT,
    SECONDS,
    SHORT_COUNT,
    TIMES,
    Quantity,
)


@dataclass(frozen=True)
class Measured:
    """One number of a trial."""

    name: str
    title: str
    quantity: Quantity
    higher_is_better: bool
    is_cost: bool = False
    """A cost is paid for the others."""


ALL = {
    one.name: one
    for one in (
        Measured("accuracy", "accuracy", PERCENT, True),
        Measured("finetuned_agreement", "fine-tuned agreement", PERCENT, True),
        Measured("finetuned_cosine", "fine-tuned cosine", COSINE, True),
        Measured("agreement", "agreement", PERCENT, True),
        Measured("cosine", "cosine", COSINE, True),
        Measured("kl", "KL", KL, False),
        Measured("sqnr_db", "SQNR", DECIBEL, True),
        Measured("worst_sqnr_db", "worst layer's SQNR", DECIBEL, True),
        Measured("converted_accuracy", "accuracy before fine-tuning", PERCENT, True),
        # Against the original, in turn with which it is timed: milliseconds of trials that were
        # hours apart, or disturbed, do not compare.
        Measured("latency_ratio", "relative latency", TIMES, False, is_cost=True),
        Measured("latency_ms", "latency", MILLISECONDS, False),
        Measured("speedup", "speed-up", TIMES, True),
        Measured("images_per_s", "images/s", SHORT_COUNT, True),
        Measured("peak_memory", "peak memory", SHORT_COUNT, False, is_cost=True),
        Measured("flops", "FLOPs", SHORT_COUNT, False, is_cost=True),
        Measured("parameters", "parameters", SHORT_COUNT, False, is_cost=True),
        Measured("seconds", "time of the trial", SECONDS, False),
    )
}
"""By name, in the order of tables; the first that was measured is the objective."""


OF_OUTPUT = {"agreement", "cosine", "kl", "sqnr_db"}
"""Those of the converted model's output, which may say little about the new layers."""


def objective_of(names: Iterable[str], *, informative: bool = True) -> str | None:
    """The quantity that decides, among those that were measured.

    Args:
        names: what was measured.
        informative: whether the converted model's output says anything about the new layers.
    """
    names = set(names) if informative else set(names) - OF_OUTPUT
    return next((name for name in ALL if name in names), None)


def signed(one: Measured) -> Quantity:
    """How differences of a quantity are written."""
    return replace(one.quantity, signed=True)
