"""Carry out one trial: convert, fine-tune, and measure what is asked for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcnify.ablate.results.quantities import ALL, objective_of
from dcnify.ablate.trial import TIMED, TrialSpec
from dcnify.ablate.workplace import Workplace
from dcnify.artifact import read_artifact, save
from dcnify.artifact.layout import CONFIG
from dcnify.bench import CONVERTED, ModelBenchSpec, settle_models
from dcnify.finetune import finetune
from dcnify.finetune.metrics import Watch
from dcnify.finetune.run_folder import is_begun
from dcnify.pipeline import time_artifact
from dcnify.recipe import Recipe
from dcnify.surgery import Plan, convert


@dataclass
class _Trial:
    """A trial under way."""

    spec: TrialSpec
    place: Workplace
    recipe: Recipe
    values: dict[str, float | None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def asks(self, *measures: str) -> bool:
        return any(one in self.place.setting.measure for one in measures)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)


def measure(spec: TrialSpec, place: Workplace, watch: Any = None) -> dict[str, Any]:
    """Carry out a trial and return what it measured, JSON-ready.

    Args:
        spec: the trial.
        place: where; conversions are shared with other trials through its folder.
        watch: progress callback of the fine-tuning.

    Raises:
        CheckError: the recipe requires something that the conversion does not reach.
        DcnifyError: it cannot be carried out.
    """
    began = time.perf_counter()
    recipe = place.setting.recipe_with(spec.changes).warning_by_default()
    trial = _Trial(spec, place, recipe)
    if trial.asks("finetune", *TIMED):
        artifact = _converted(trial)
        record = read_artifact(artifact)
        _report_fidelity(trial, record.report, record.plan)
        if trial.asks("finetune"):
            artifact = _finetuned(trial, artifact, watch)
        if trial.asks(*TIMED):
            _time(trial, artifact)
        if trial.asks("finetune") and not place.setting.keep_models:
            shutil.rmtree(artifact, ignore_errors=True)
    else:
        with trial.timing("convert"):
            report, plan = _convert(trial)
        _report_fidelity(trial, report, plan)
    values = {name: trial.values[name] for name in ALL if name in trial.values}
    there = (name for name, value in values.items() if value is not None)
    deciding = objective_of(there, informative=not trial.details["uninformative"])
    return {
        "hash": spec.hash,
        "seed": spec.seed,
        "changes": spec.changes,
        "values": {**values, "seconds": round(time.perf_counter() - began, 3)},
        "objective": values[deciding] if deciding else None,
        "phases": trial.seconds,
        "warnings": trial.warnings,
        **trial.details,
    }


def _convert(trial: _Trial, target: Path | None = None) -> tuple[dict[str, Any], Plan]:
    """Convert, and save the artifact if there is a ``target``; return its report and plan."""
    place, recipe = trial.place, trial.recipe
    source = place.fresh()
    result = convert(
        source.model,
        recipe,
        source.example(place.shape(recipe)),
        calibration=place.images(recipe),
        seed=trial.spec.seed,
        random_weights=source.random_weights,
    )
    if target is not None:
        save(result, target, source=source)
    return result.report.to_dict(), result.plan


def _converted(trial: _Trial) -> Path:
    """The artifact of the trial's conversion; the first trial that needs it makes it."""
    from filelock import FileLock

    folder = trial.place.converted
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / trial.spec.conversion[:12]
    with trial.timing("convert"), FileLock(f"{target}.lock"):
        if not (target / CONFIG).is_file():
            _convert(trial, target)
        else:
            trial.details["shared_conversion"] = True
    return target


def _report_fidelity(trial: _Trial, report: dict[str, Any], plan: Plan) -> None:
    output = report["output"] or {}
    sites = [one for one in report["sites"] if not one["reverted"]]
    found = {
        "agreement": output.get("top1_agreement"),
        "cosine": output.get("cosine"),
        "kl": output.get("kl"),
        "sqnr_db": output.get("sqnr_db"),
        "worst_sqnr_db": min(
            (one["sqnr_db"] for one in sites if one["sqnr_db"] is not None), default=None
        ),
        "converted_accuracy": output.get("accuracy"),
    }
    trial.values |= {name: value for name, value in found.items() if value is not None}
    trial.warnings += report["warnings"]
    trial.details |= {"sites": report["sites"], "images": report["images"]}
    trial.details["versions"] = report["versions"]
    trial.details["uninformative"] = output.get("uninformative")
    if trial.asks("parameters"):
        trial.values["parameters"] = report["parameters"][1]
    if trial.asks("flops"):
        changed = sum(swap.flops - swap.site.flops for swap in plan.swaps)
        trial.values["flops"] = plan.model_flops + changed


def _finetuned(trial: _Trial, artifact: Path, watch: Watch | None) -> Path:
    """Fine-tune the artifact, going on where a worker that was killed had come to."""
    place, run = trial.place, trial.place.setting.run
    out = place.folder / "models" / trial.spec.name
    if not (out / CONFIG).is_file():
        options = replace(
            run.training,
            seed=trial.spec.seed,
            resume=is_begun(out),
            trust_code=place.trusts_code,
        )
        with trial.timing("finetune"):
            finetune(
                artifact,
                place.data(trial.recipe),
                out,
                place.stages(trial.recipe),
                teacher=place.fresh(),
                options=options,
                watch=watch,
                say=trial.warnings.append,
            )
    summary = read_artifact(out).report["finetune"][-1]
    name = summary["measure"]
    trial.values["accuracy" if name == "accuracy" else f"finetuned_{name}"] = summary["finetuned"]
    if name == "accuracy":
        trial.values["converted_accuracy"] = summary["converted"]
    trial.details["original_accuracy"] = summary["original"]
    trial.details["stages"] = summary["stages"]
    return out


def _time(trial: _Trial, artifact: Path) -> None:
    """Time the model against the original: latency of one image, throughput of a batch."""
    place = trial.place
    record, shape = read_artifact(artifact), place.shape(trial.recipe)
    device = "cpu" if place.setting.run.options.cpu else None
    batches = [1] * trial.asks("latency") + [place.setting.run.batch] * trial.asks(
        "throughput", "memory"
    )
    with trial.timing("time"):
        for batch in batches:
            spec = ModelBenchSpec(batch=batch, device=device, seconds=place.setting.run.seconds)
            report, _ = time_artifact(
                record,
                settle_models(spec),
                against=place.fresh(),
                size=shape,
                trust_code=place.trusts_code,
            )
            (forward,) = report.passes
            timed = forward.timings[CONVERTED]
            if trial.asks("latency") and batch == batches[0]:
                trial.values["latency_ratio"] = 1 / forward.speedup.p50
                trial.values["latency_ms"] = timed.p50_us / 1e3
                trial.values["speedup"] = forward.speedup.p50
            if trial.asks("throughput"):
                trial.values["images_per_s"] = timed.images_per_s
            if trial.asks("memory") and timed.peak_memory_bytes is not None:
                trial.values["peak_memory"] = timed.peak_memory_bytes
            trial.details["machine"] = report.to_dict()["machine"]
