"""Results as CSV: one row per measurement, each with all one needs to know about it."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from dcnify.bench.ablation.result import AblationReport
from dcnify.bench.machine import Machine
from dcnify.bench.result import ModelReport, Report

_MACHINE = ("date", *(field.name for field in fields(Machine)))
COLUMNS = (
    *_MACHINE,
    *("shape", "batch", "groups", "dtype", "pass", "offset_spread", "clock", "contender"),
    *("p20_us", "p50_us", "p80_us", "rounds", "ratio_to_ours"),
    *("floor_bytes", "gb_per_s", "share_of_copy", "max_rel_error"),
)
MODEL_COLUMNS = (
    *_MACHINE,
    *("shape", "dtype", "pass", "clock", "model", "p20_us", "p50_us", "p80_us", "rounds"),
    *("images_per_s", "speedup_p20", "speedup_p50", "speedup_p80"),
    *("peak_memory_bytes", "parameters", "flops"),
)
ABLATION_COLUMNS = (
    *_MACHINE,
    *("shape", "batch", "dtype", "pass", "offset_spread", "clock", "variant"),
    *("p20_us", "p50_us", "p80_us", "rounds", "ratio_p20", "ratio_p50", "ratio_p80"),
)


def write_csv(report: Report, path: Path) -> None:
    """Write every measurement of a report; what was not measured has no row."""
    _write(path, COLUMNS, _rows(report))


def write_models_csv(report: ModelReport, path: Path) -> None:
    """Write a row for each model and pass; the speedup is in both models' rows.

    That of an exported model is in its own.
    """
    _write(path, MODEL_COLUMNS, _model_rows(report))


def write_ablation_csv(report: AblationReport, path: Path) -> None:
    """Write a row for each variant and case."""
    everywhere = {"date": report.date, "offset_spread": report.offset_spread}
    rows = (
        {**everywhere, **asdict(report.machine), **case.to_dict(), **asdict(timing)}
        for case in report.cases
        for timing in case.timings
    )
    _write(path, ABLATION_COLUMNS, rows)


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            short = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(short)


def _rows(report: Report) -> Iterator[dict[str, object]]:
    everywhere = {
        "date": report.date,
        "offset_spread": report.offset_spread,
        **asdict(report.machine),
    }
    for case in (*report.cases, *report.host):
        for measurement in case.measurements:
            yield {**everywhere, **case.to_dict(), **asdict(measurement)}


def _model_rows(report: ModelReport) -> Iterator[dict[str, object]]:
    shape = "x".join(map(str, report.shape))
    everywhere = {"date": report.date, "shape": shape, "dtype": report.dtype}
    for one in report.passes:
        for name, timing in one.timings.items():
            own = one.exported.get(name, one.speedup)
            speedup = {f"speedup_{key}": value for key, value in asdict(own).items()}
            yield {
                **everywhere,
                **asdict(report.machine),
                **one.to_dict(),
                "model": name,
                **asdict(timing),
                **speedup,
                **asdict(report.models[name]),
            }
