"""The parts of a run that a folder holds already, and whether they belong to this run."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dcnify.artifact import Source, read_artifact
from dcnify.bench import ModelBench
from dcnify.data import Labelled
from dcnify.data.statistics import IMAGENET, UNKNOWN, Statistics
from dcnify.errors import InputError
from dcnify.finetune.run_folder import CURVE, same_stages
from dcnify.finetune.stages import handing_over
from dcnify.recipe import Finetune, Recipe

CONVERTED, FINETUNED, BENCH, REPORT, PAGE, FIDELITY = (
    "converted",
    "finetuned",
    "bench.json",
    "report.json",
    "report.md",
    "fidelity.png",
)
_WRITTEN = (CONVERTED, FINETUNED, BENCH, REPORT, PAGE, FIDELITY, CURVE)


def check_folder(out: Path, source: str) -> None:
    """Raise `InputError` if ``out`` is a file, or holds something else, such as the source."""
    place = Path(os.path.realpath(source))
    if place.exists() and place.is_relative_to(out):
        raise InputError(f"{source} lies in {out}: choose another folder")
    if out.is_file():
        raise InputError(f"{out} is a file; a run is written to a folder")
    found = sorted(one.name for one in out.iterdir()) if out.is_dir() else []
    strange = [name for name in found if name not in _WRITTEN]
    if strange:
        raise InputError(
            f"{out} holds something else ({', '.join(strange[:3])}): choose another folder"
        )


def clear(out: Path) -> None:
    """Delete what a run writes."""
    for path in (out / name for name in _WRITTEN):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def check_conversion(folder: Path, recipe: Recipe, source: Source, seed: int) -> None:
    """Raise `InputError` if it was converted from another source, or by another recipe or seed."""
    record = read_artifact(folder)
    earlier = Recipe.from_yaml(record.recipe, str(folder / "recipe.yaml"))
    known = Statistics.of(record.report.get("images"))
    expected = source.statistics.over(IMAGENET)
    recorded = record.config["dcnify"].get("source") or {}
    same = {
        "recipe": _hash_of_swaps(earlier) == _hash_of_swaps(recipe),
        "source": recorded.get("sha256") == source.sha256,
        "seed": record.report.get("seed") == seed,
        "mean, deviation or interpolation": known in (UNKNOWN, expected),
    }
    _refuse_others(folder, same)


def check_training(folder: Path, stages: Finetune, data: Labelled) -> None:
    """Raise `InputError` if it was trained in other stages or on other images."""
    summary = read_artifact(folder).report["finetune"][-1]
    either = [one.model_dump(mode="json") for one in (stages, handing_over(stages))]
    same = {
        "fine-tuning": any(same_stages(summary["finetune"], one) for one in either),
        "dataset": summary["data"] == data.origin,
    }
    _refuse_others(folder, same)


def is_timed(
    earlier: Mapping[str, Any], shape: tuple[int, ...], seconds: float | None, bench: ModelBench
) -> bool:
    """Whether an earlier ``bench.json`` holds what is asked for now."""
    machine = earlier.get("machine")
    return (
        earlier.get("shape") == [bench.batch, *shape]
        and "passes" in earlier
        and isinstance(machine, dict)
        and machine.get("device") == str(bench.device)
        and seconds in (None, earlier.get("seconds"))
    )


def _refuse_others(folder: Path, same: Mapping[str, bool]) -> None:
    for name, is_same in same.items():
        if not is_same:
            raise InputError(
                f"{folder} was made with another {name}: pass --overwrite to begin again, or "
                "choose another folder"
            )


def _hash_of_swaps(recipe: Recipe) -> str:
    """Hash of the recipe's conversion, whatever it trains afterwards."""
    return recipe.model_copy(update={"finetune": None, "description": ""}).sha256
