"""The end of a fine-tuning: the trained artifact, its report, and the summary."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic_core import to_jsonable_python

from dcnify.artifact import Artifact, save_again
from dcnify.artifact.layout import TRAINING
from dcnify.data.labelled import Labelled
from dcnify.finetune.checkpoints import TrainingState
from dcnify.finetune.parallel.processes import gather_objects
from dcnify.finetune.run import TrainingRun
from dcnify.finetune.score import DISTANCES
from dcnify.recipe import Recipe
from dcnify.sources.state_dict import of_version

_MEASURED = ("sites", "output", "steps")
"""Keys of a conversion's report that say nothing of trained weights."""


@dataclass(frozen=True)
class Summary:
    """The accuracies of a fine-tuning, and where its artifact is.

    Without labels, how closely the model follows the original stands in place of its accuracy, and
    the artifact has the best weights.
    """

    artifact: Path
    original: float | None
    """Accuracy on the validation images; None without labels, or if the original was not
    available."""
    converted: float | None
    finetuned: float | None
    best: float | None
    best_at: str
    """Stage and step of the best accuracy, or ``the start``."""
    best_artifact: Path | None
    """The artifact of the best accuracy, if that was not the last."""
    stages: dict[str, float]
    """Accuracy at the end of each stage."""
    seconds: float
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""
    measure: str = "accuracy"
    """`Score.measure` of ``converted``, ``finetuned``, ``best`` and ``stages``."""
    distances: dict[str, float] = field(default_factory=dict)
    """Without labels, `Score.distance` of ``converted`` and after each stage."""
    distance: str = ""
    """What those are: ``kl`` or ``relative_error``."""

    @property
    def gained(self) -> bool:
        """Whether the model is better than before; also if it was not measured before."""
        if self.converted is None or self.finetuned is None:
            return True
        if self.finetuned == self.converted and self.distances:
            distances = list(self.distances.values())
            return distances[-1] < distances[0]
        return self.finetuned > self.converted

    @property
    def worse(self) -> bool:
        """Whether the training ended below where it began."""
        measured = self.converted is not None and self.finetuned is not None
        return measured and not self.gained and self.finetuned != self.converted

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {**to_jsonable_python(self), "gained": self.gained}


def finish(
    run: TrainingRun,
    record: Artifact,
    state: TrainingState,
    target: Path,
    about: dict[str, Any],
    *,
    main: bool,
) -> Summary:
    """Write the artifact, and the best one if that is another; delete the checkpoints.

    Every process calls it; the ``main`` one writes.
    """
    run.model.to("cpu").eval().requires_grad_(True)
    run.model.to(memory_format=torch.contiguous_format)
    names = [stage.name for stage in run.plan.stages]
    last = state.accuracies.get(names[-1])
    stage, step = state.best_at
    best_at = f"{names[min(stage, len(names) - 1)]}, step {step}" if stage + step else "the start"
    better = last is not None and state.best is not None and state.best > last
    summary = Summary(
        artifact=target,
        original=state.accuracies.get("original"),
        converted=state.accuracies.get("converted"),
        finetuned=last,
        best=state.best,
        best_at=best_at,
        best_artifact=target / TRAINING / "best" if better and run.best.exists() else None,
        stages={name: state.accuracies[name] for name in names if name in state.accuracies},
        seconds=state.seconds,
        skipped=_skipped(run.data),
        measure=state.measure,
        distances=state.distances,
        distance=DISTANCES.get(state.measure, ""),
    )
    if not main:
        return summary
    recipe = Recipe.from_yaml(record.recipe, f"{record.path}/recipe.yaml")
    written: dict[str, Any] = {
        "report": _report(record, {**about, **summary.to_dict()}),
        "recipe": recipe.model_copy(update={"finetune": run.plan}).to_yaml(),
        "overwrite": True,
    }
    if summary.best_artifact is not None:
        _save_best(run, record, summary.best_artifact, written)
    save_again(record, run.model, run.swaps, target, **written)
    run.checkpoints.clear()
    run.best.unlink(missing_ok=True)
    return summary


def _save_best(run: TrainingRun, record: Artifact, path: Path, written: dict[str, Any]) -> None:
    last = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.load_best()
    try:
        save_again(record, run.model, run.swaps, path, **written)
    finally:
        run.model.load_state_dict(of_version(last, run.model))


def _report(record: Artifact, about: dict[str, Any]) -> dict[str, Any]:
    """Return the artifact's report with this training added.

    The fidelity that the conversion measured moves to ``conversion``: it was that of other weights.
    """
    before = {key: record.report[key] for key in _MEASURED if key in record.report}
    earlier = record.report.get("finetune")
    return {
        **{key: value for key, value in record.report.items() if key not in _MEASURED},
        "conversion": record.report.get("conversion", before),
        "finetune": [*(earlier if isinstance(earlier, list) else []), about],
    }


def _skipped(data: Labelled) -> tuple[tuple[str, str], ...]:
    """Return the images that could not be read in any process, each once."""
    found: dict[tuple[int, str], str] = {}
    for part, dataset in enumerate((data.train, data.validation)):
        if dataset is not None and hasattr(dataset, "unreadable"):
            found |= {(part, str(name)): str(reason) for name, reason in dataset.unreadable()}
    everywhere = {key: reason for some in gather_objects(found) for key, reason in some.items()}
    return tuple((name, reason) for (_, name), reason in sorted(everywhere.items()))
