"""Results as CSV: one row per measurement, each with all one needs to know about it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from dcnify.bench.result import Report

COLUMNS = (
    "date",
    "device",
    "device_name",
    "driver",
    "cuda",
    "threads",
    "torch",
    "triton",
    "numba",
    "dcnify",
    "python",
    "shape",
    "batch",
    "groups",
    "dtype",
    "pass",
    "offset_spread",
    "clock",
    "contender",
    "p20_us",
    "p50_us",
    "p80_us",
    "rounds",
    "ratio_to_ours",
    "floor_bytes",
    "gb_per_s",
    "share_of_copy",
    "max_rel_error",
)


def write_csv(report: Report, path: Path) -> None:
    """Write every measurement of a report; what was not measured has no row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(report))


def _rows(report: Report) -> Iterator[dict[str, object]]:
    everywhere = {
        "date": report.date,
        "offset_spread": report.offset_spread,
        **asdict(report.machine),
    }
    for case in (*report.cases, *report.host):
        for measurement in case.measurements:
            row = {**everywhere, **case.to_dict(), **asdict(measurement)}
            yield {key: _short(value) for key, value in row.items()}


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
