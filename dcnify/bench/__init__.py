"""Benchmarks: what `dcnify bench` runs."""

from typing import TYPE_CHECKING

from dcnify.bench.spec import ModelBenchSpec, OpBenchSpec
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.bench.ablation.result import AblationReport
    from dcnify.bench.ablation.run import run_ablation
    from dcnify.bench.csv_file import write_ablation_csv, write_csv, write_models_csv
    from dcnify.bench.models import CONVERTED, ORIGINAL, ExportedModel, ModelBench, bench_models
    from dcnify.bench.op import OpBench, run
    from dcnify.bench.plot import check_plot, write_plot
    from dcnify.bench.request import settle, settle_models
    from dcnify.bench.result import (
        COPY,
        CaseResult,
        Measurement,
        ModelReport,
        PassResult,
        Report,
        Skipped,
    )
    from dcnify.bench.rivals import OURS
    from dcnify.bench.swaps import PlanTimings, SwapTiming, time_swaps

__all__ = [
    "CONVERTED",
    "COPY",
    "ORIGINAL",
    "OURS",
    "AblationReport",
    "CaseResult",
    "ExportedModel",
    "Measurement",
    "ModelBench",
    "ModelBenchSpec",
    "ModelReport",
    "OpBench",
    "OpBenchSpec",
    "PassResult",
    "PlanTimings",
    "Report",
    "Skipped",
    "SwapTiming",
    "bench_models",
    "check_plot",
    "run",
    "run_ablation",
    "settle",
    "settle_models",
    "time_swaps",
    "write_ablation_csv",
    "write_csv",
    "write_models_csv",
    "write_plot",
]

__getattr__ = load_on_use(__name__)
