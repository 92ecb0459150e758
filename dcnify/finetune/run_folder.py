"""The folder of a fine-tuning: may a run write to it, and where does an earlier run continue?"""

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch

from dcnify._version import __version__
from dcnify.artifact import Artifact, check_output
from dcnify.artifact.layout import OURS, TRAINING, WEIGHTS
from dcnify.data.labelled import Labelled
from dcnify.digest import sha256_file
from dcnify.errors import InputError
from dcnify.files import write_file
from dcnify.finetune.checkpoints import Checkpoints, TrainingState
from dcnify.finetune.parallel import fsdp
from dcnify.recipe.finetune.section import Finetune

RUN, METRICS, CURVE = "run.json", "metrics.jsonl", "curve.png"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
_SAME = ("artifact", "weights", "data", "normalisation", "processes", "fsdp", "stages")
"""Keys of `describe_run` that must not change when a run is resumed."""


def check_target(
    out: str | os.PathLike[str], record: Artifact, *, resume: bool, overwrite: bool
) -> Path:
    """Return the folder ``out``, with links resolved; nothing is written.

    Raises `InputError` if it is a file, exists already, or holds nothing to resume.
    """
    path = Path(os.path.realpath(out))
    if path.suffix in (".pt", ".pth"):
        raise InputError(f"{out}: the output of a fine-tuning is a folder")
    if path == Path(os.path.realpath(record.path)):
        raise InputError(f"{out} is the artifact that is trained: choose another output")
    running = is_begun(path)
    done = (path / WEIGHTS).is_file() and (path / "config.json").is_file()
    if resume and not running:
        raise InputError(f"{out} holds no fine-tuning to resume")
    if resume and done:
        raise InputError(f"{out} is finished; there is nothing to resume")
    if running and not (done or resume or overwrite):
        raise InputError(f"{out} holds a fine-tuning: pass --resume to go on, --overwrite to begin")
    return check_output(out, overwrite or resume)


def is_begun(path: Path) -> bool:
    """Whether a folder holds a fine-tuning, finished or not."""
    return (path / TRAINING / RUN).is_file()


def begin(target: Path, about: dict[str, Any], *, resume: bool) -> None:
    """Describe the run in ``run.json``, after deleting an earlier one unless it is resumed."""
    folder = target / TRAINING
    if not resume and target.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        for name in OURS:
            with suppress(OSError):
                (target / name).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(".*"):  # a process was killed while it wrote them
        unfinished.unlink()
    text = json.dumps(about, indent=2) + "\n"
    write_file(folder / RUN, lambda new: new.write_text(text, "utf-8"), overwrite=True)


def find_checkpoint(
    folder: Path, checkpoints: Checkpoints, about: dict[str, Any], say: Callable[[str], None]
) -> tuple[Path | None, TrainingState]:
    """Return the newest intact checkpoint, if any, and its state.

    ``about`` is what `describe_run` returns now; `InputError` if the folder's run is another one.
    """
    try:
        later = {"fsdp": False, "normalisation": about["normalisation"]}  # than version 0.1.0
        before = later | json.loads((folder / RUN).read_text("utf-8"))
        differ = [key for key in _SAME if before[key] != about[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN} cannot be read: begin again with --overwrite") from error
    if differ:
        key = differ[0]
        raise InputError(
            f"{folder.parent} was begun with other {key} ({before[key]}, now {about[key]}): "
            "give the same, or begin again with --overwrite"
        )
    if not same_stages(before.get("finetune"), about["finetune"]):
        say("the settings of the stages differ from those it was begun with; the new ones hold")
    for path, state in checkpoints.newest():
        return path, state
    say("there is no checkpoint yet: beginning from the artifact")
    return None, TrainingState()


def same_stages(dumped: Any, other: Any) -> bool:
    """Whether two dumps are of the same stages; keys that are missing take their defaults."""
    try:
        return dumped == other or Finetune.model_validate(dumped) == Finetune.model_validate(other)
    except ValueError:
        return False


def describe_run(
    record: Artifact, data: Labelled, config: Mapping[str, Any], plan: Finetune
) -> dict[str, Any]:
    """Describe a run for ``run.json`` and the report; ``config`` is timm's data config."""
    weights = record.path / WEIGHTS if record.path.is_dir() else record.path
    stages = [
        [s.name, s.epochs, s.steps, s.batch_size, s.accumulate, list(s.train)] for s in plan.stages
    ]
    return {
        "artifact": str(record.path),
        "weights": sha256_file(weights),
        "data": data.origin,
        "normalisation": {key: list(config[key]) for key in ("mean", "std")},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "fsdp": fsdp.is_requested(),
        "stages": stages,
        "finetune": plan.model_dump(mode="json"),
        "versions": {
            "dcnify": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
