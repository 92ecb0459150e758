"""Benchmarks: what `dcnify bench` runs."""

from dcnify.bench.csv_file import write_csv
from dcnify.bench.files import check_file, write_file
from dcnify.bench.op import OpBench, run
from dcnify.bench.plot import check_plot, write_plot
from dcnify.bench.request import settle
from dcnify.bench.result import COPY, CaseResult, Measurement, Report, Skipped
from dcnify.bench.rivals import OURS

__all__ = [
    "COPY",
    "OURS",
    "CaseResult",
    "Measurement",
    "OpBench",
    "Report",
    "Skipped",
    "check_file",
    "check_plot",
    "run",
    "settle",
    "write_csv",
    "write_file",
    "write_plot",
]
