"""Run a whole recipe in one folder, and skip what an earlier call has done."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcnify.artifact import Artifact, Source, open_source, read_artifact, save
from dcnify.artifact.layout import CONFIG, TRAINING
from dcnify.bench import ModelBenchSpec, settle_models
from dcnify.errors import DcnifyError
from dcnify.files import write_file
from dcnify.finetune import CURVE, METRICS, StepMetrics, finetune
from dcnify.finetune.parallel.fsdp import check_settings
from dcnify.finetune.run_folder import is_begun
from dcnify.finetune.score import Score
from dcnify.pipeline import earlier_work
from dcnify.pipeline.earlier_work import BENCH, CONVERTED, FIDELITY, FINETUNED, PAGE, REPORT
from dcnify.pipeline.images import fidelity_images, training_images
from dcnify.pipeline.page import run_page
from dcnify.pipeline.spec import RunSpec
from dcnify.pipeline.timing import time_artifact
from dcnify.progress import Progress, silent
from dcnify.report import write_plot, write_training_curve
from dcnify.report.render import markdown
from dcnify.surgery import convert


@dataclass(frozen=True)
class RunResult:
    """The result of a run, as in ``report.json``."""

    request: RunSpec
    folder: Path
    conversion: dict[str, Any]
    """The report of the conversion."""
    finetuning: dict[str, Any]
    """Summary of the fine-tuning."""
    bench: dict[str, Any]
    skipped: tuple[str, ...]
    """Steps that an earlier call had done."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return {
            "request": self.request.to_dict(),
            "folder": str(self.folder),
            "conversion": self.conversion,
            "finetune": self.finetuning,
            "bench": self.bench,
            "skipped": list(self.skipped),
        }


def run(
    spec: RunSpec,
    *,
    progress: Progress = silent,
    watch: Callable[[StepMetrics], None] | None = None,
    looked: Callable[[str, int, Score], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> RunResult:
    """Convert, fine-tune, time and report, each unless an earlier call has done it.

    Args:
        spec: the request.
        progress: progress callback of everything but the training.
        watch: progress callback of the training.
        looked: called with each validation: stage, step, `Score`.
        say: called with remarks, one line each.

    Raises:
        InputError: something given is wrong, or the folder holds the work of another request.
        DcnifyError: as `dcnify.finetune.finetune`.
    """
    spec.source.check()
    spec.training_data.check()
    recipe, stages = spec.load()
    recipe = recipe.warning_by_default()
    out, skipped = spec.folder, []
    earlier_work.check_folder(out, spec.source.source)
    device = "cpu" if spec.options.cpu else None
    bench = settle_models(ModelBenchSpec(batch=spec.batch, device=device, seconds=spec.seconds))
    check_settings()
    source = open_source(spec.source, on_progress=progress).for_images(spec.images.statistics)
    for note in source.notes:
        say(note)
    shape = spec.source.input_shape(source.input_size, recipe.input)
    data = training_images(spec, source, stages, shape)
    images = fidelity_images(spec, recipe, source, shape, data, progress)
    if spec.options.overwrite:
        earlier_work.clear(out)
    converted, trained = out / CONVERTED, out / FINETUNED
    if (converted / CONFIG).is_file():
        earlier_work.check_conversion(converted, recipe, source, spec.seed)
        skipped.append(CONVERTED)
    else:
        example = source.example(shape)
        result = convert(
            source.model,
            recipe,
            example,
            calibration=images,
            seed=spec.seed,
            progress=progress,
            random_weights=source.random_weights,
        )
        save(result, converted, source=source)
    if (trained / CONFIG).is_file():
        earlier_work.check_training(trained, stages, data)
        skipped.append(FINETUNED)
    else:
        finetune(
            converted,
            data,
            trained,
            stages,
            teacher=open_source(spec.source),
            options=replace(
                spec.training,
                resume=is_begun(trained),
                overwrite=False,
                trust_code=_is_trusted(read_artifact(converted), spec, source),
            ),
            watch=watch,
            looked=looked,
            say=say,
        )
    record = read_artifact(trained)
    timed = _read(out / BENCH) if FINETUNED in skipped else {}
    if earlier_work.is_timed(timed, shape, spec.seconds, bench):
        skipped.append(BENCH)
    else:
        original, trust = open_source(spec.source), _is_trusted(record, spec, source)
        report, _ = time_artifact(record, bench, against=original, size=shape, trust_code=trust)
        timed = report.to_dict()
        _write(out / BENCH, timed)
    done = RunResult(
        request=spec,
        folder=out,
        conversion=read_artifact(converted).report,
        finetuning=record.report["finetune"][-1],
        bench=timed,
        skipped=tuple(skipped),
    )
    pictures = _draw(out, done, say)
    _write(out / REPORT, done.to_dict())
    text = markdown(run_page(record, source.spec, timed, pictures))
    write_file(out / PAGE, lambda path: path.write_text(text, "utf-8"), True)
    return done


def _draw(out: Path, done: RunResult, say: Callable[[str], None]) -> dict[str, str]:
    """Draw what can be drawn, and return the files of the pictures by what they show."""
    metrics = out / FINETUNED / TRAINING / METRICS
    drawings: dict[str, Callable[[Path], object]] = {
        FIDELITY: lambda path: write_plot(done.conversion, path),
        CURVE: lambda path: write_training_curve(metrics, path),
    }
    made = {}
    for name, draw in drawings.items():
        try:
            write_file(out / name, draw, True)
            made[Path(name).stem] = name
        except (DcnifyError, OSError) as error:
            say(f"{name} was not drawn: {error}")
    return made


def _is_trusted(record: Artifact, spec: RunSpec, source: Source) -> bool:
    """Whether an artifact may import code: what the person named as the source, or any if asked."""
    own = spec.source.names_code and record.base == source.base
    return own or spec.options.trust_code


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2) + "\n"
    write_file(path, lambda place: place.write_text(text, "utf-8"), True)
