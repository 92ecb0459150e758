"""The end of a fine-tuning: what is written, and what is said of how it went."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dcnify.artifact import Artifact, save_again
from dcnify.artifact.layout import TRAINING
from dcnify.finetune.parallel.processes import all_say
from dcnify.finetune.position import Position
from dcnify.finetune.run import Run
from dcnify.recipe import Recipe
from dcnify.sources.weight_files import read_safetensors

if TYPE_CHECKING:
    from dcnify.data.labelled import Labelled
    from dcnify.recipe.finetune.section import Finetune


@dataclass(frozen=True)
class Summary:
    """How a fine-tuning went."""

    artifact: Path
    original: float | None
    """Accuracy on the validation images; None where the original was not at hand."""
    converted: float | None
    finetuned: float | None
    best: float | None
    best_at: str
    """Stage and step of the best."""
    best_artifact: Path | None
    """Where the best was better than the last."""
    stages: dict[str, float]
    """Accuracy at the end of each."""
    seconds: float
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        made = asdict(self)
        for key in ("artifact", "best_artifact"):
            made[key] = str(made[key]) if made[key] is not None else None
        return made


def close(
    run: Run, record: Artifact, position: Position, target: Path, about: dict[str, Any], main: bool
) -> Summary:
    """Write the artifact, and the best one where that is another, and take the checkpoints away.

    Every process calls it; the ``main`` one writes.
    """
    run.model.to("cpu").eval().requires_grad_(True)
    run.model.to(memory_format=torch.contiguous_format)
    last = position.accuracies.get(run.plan.stages[-1].name)
    stage, step = position.best_at
    better = last is not None and position.best is not None and position.best > last
    summary = Summary(
        artifact=target,
        original=position.accuracies.get("original"),
        converted=position.accuracies.get("converted"),
        finetuned=last,
        best=position.best,
        best_at=f"{run.plan.stages[min(stage, len(run.plan.stages) - 1)].name}, step {step}",
        best_artifact=target / TRAINING / "best" if better and run.best.exists() else None,
        stages={
            s.name: position.accuracies[s.name]
            for s in run.plan.stages
            if s.name in position.accuracies
        },
        seconds=position.seconds,
        skipped=_skipped(run.data),
    )
    if not main:
        return summary
    report = _report(record, about, summary)
    recipe = _recipe(record, run.plan)
    if summary.best_artifact is not None:
        _save_best(run, record, summary.best_artifact, report, recipe)
    save_again(record, run.model, run.swaps, target, report=report, recipe=recipe, overwrite=True)
    run.checkpoints.clear()
    run.best.unlink(missing_ok=True)
    return summary


def _save_best(run: Run, record: Artifact, path: Path, report: dict[str, Any], recipe: str) -> None:
    last = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model.load_state_dict(read_safetensors(run.best), strict=False)
    try:
        save_again(record, run.model, run.swaps, path, report=report, recipe=recipe, overwrite=True)
    finally:
        run.model.load_state_dict(last)


def _report(record: Artifact, about: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """The conversion's, whose fidelity was that of other weights, and what came after it."""
    moved = ("sites", "output", "steps")
    before = {key: record.report[key] for key in moved if key in record.report}
    earlier = record.report.get("finetune")
    rest = {key: value for key, value in record.report.items() if key not in moved}
    told = {**about, **summary.to_dict()}
    return {
        **rest,
        "conversion": record.report.get("conversion", before),
        "finetune": [*(earlier if isinstance(earlier, list) else []), told],
    }


def _recipe(record: Artifact, plan: Finetune) -> str:
    recipe = Recipe.from_yaml(record.recipe, f"{record.path}/recipe.yaml")
    return recipe.model_copy(update={"finetune": plan}).to_yaml()


def _skipped(data: Labelled) -> tuple[tuple[str, str], ...]:
    """Images that could not be read, in any process, each once."""
    found: dict[tuple[int, str], str] = {}
    for part, dataset in enumerate((data.train, data.validation)):
        if hasattr(dataset, "unreadable"):
            found |= {(part, str(name)): str(reason) for name, reason in dataset.unreadable()}
    everywhere = {key: reason for some in all_say(found) for key, reason in some.items()}
    return tuple((name, reason) for (_, name), reason in sorted(everywhere.items()))
