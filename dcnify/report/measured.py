"""Read the fidelity of each layer after each step from a report of any version."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """The fidelity of every layer at one moment."""

    name: str
    sqnr_db: dict[str, float]
    """By path of the layer; infinite where the new layer is exact."""
    reverted: frozenset[str]
    """Layers that were reverted because they would have lost too much."""
    output: str
    """Fidelity of the model's output, in words; empty if it was not measured."""


def measured_in(
    report: Mapping[str, Any], recomputed: Mapping[str, Any] | None = None
) -> list[Measured]:
    """Return the report's steps, or its final state if it has none; then what was recomputed.

    Entries of an unknown form in ``report``, the content of a ``report.json``, are ignored.
    """
    steps = [step for step in _entries(report.get("steps")) if _entries(step.get("sites"))]
    found = [_measured(str(step.get("step")), step) for step in steps]
    if not found:
        found = [_measured("reported", report)]
    if recomputed is not None:
        found.append(_measured("recomputed", recomputed))
    return found


def _measured(name: str, measured: Mapping[str, Any]) -> Measured:
    sites = [site for site in _entries(measured.get("sites")) if isinstance(site.get("path"), str)]
    values = {site["path"]: _sqnr(site) for site in sites}
    return Measured(
        name=name,
        sqnr_db={path: value for path, value in values.items() if value is not None},
        reverted=frozenset(site["path"] for site in sites if site.get("reverted") is True),
        output=", ".join(_output(measured.get("output"))),
    )


def _output(output: Any) -> Iterator[str]:
    if not isinstance(output, Mapping):
        return
    sqnr = _sqnr(output)
    if sqnr is not None:
        yield "exact" if sqnr == math.inf else f"SQNR {sqnr:.1f} dB"
    for key, words in (("cosine", "cosine {:.3f}"), ("top1_agreement", "top-1 agreement {:.0%}")):
        if _is_number(output.get(key)):
            yield words.format(output[key])
    if _is_number(output.get("accuracy")):
        words = f"accuracy {output['accuracy']:.1%}"
        if _is_number(output.get("original_accuracy")):
            words += f" (original {output['original_accuracy']:.1%})"
        yield words


def _sqnr(measured: Mapping[str, Any]) -> float | None:
    """Return decibels, where null is infinity; None if there is no number."""
    if "sqnr_db" not in measured:
        return None
    value = measured["sqnr_db"]
    if value is None or value == math.inf:
        return math.inf
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _entries(value: Any) -> list[Mapping[str, Any]]:
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, Mapping)]
