"""The folder of a fine-tuning: whether a run may have it, and what lies in it of an earlier one."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch

from dcnify._version import __version__
from dcnify.artifact import Artifact, check_output
from dcnify.artifact.layout import OURS, TRAINING, WEIGHTS
from dcnify.digest import sha256_file
from dcnify.errors import InputError
from dcnify.finetune.checkpoints import Checkpoints
from dcnify.finetune.parallel import fsdp
from dcnify.finetune.position import Position

if TYPE_CHECKING:
    from dcnify.data.labelled import Labelled
    from dcnify.recipe.finetune.section import Finetune

RUN, METRICS, CHECKPOINTS, BOARD, CURVE = (
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "tensorboard",
    "curve.png",
)
_SAME = ("artifact", "weights", "data", "processes", "fsdp", "stages")
"""Of a run that is resumed, what must be as it was."""


def check_target(
    out: str | os.PathLike[str], record: Artifact, *, resume: bool, overwrite: bool
) -> Path:
    """The folder ``out``, with links resolved. Changes nothing.

    Raises:
        InputError: it is a file, or taken, or there is nothing to resume.
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
    """Whether a folder holds a fine-tuning, over or not."""
    return (path / TRAINING / RUN).is_file()


def begin(target: Path, about: dict[str, Any], *, resume: bool) -> None:
    """Clear away what an earlier run left, unless that goes on, and write what this one is."""
    folder = target / TRAINING
    if not resume and target.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        for name in OURS:
            with suppress(OSError):
                (target / name).unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).write_text(json.dumps(about, indent=2) + "\n", "utf-8")


def where_it_was(
    folder: Path, checkpoints: Checkpoints, about: dict[str, Any], say: Callable[[str], None]
) -> tuple[Path | None, Position]:
    """The checkpoint that a run goes on from, if there is any, and its position.

    Args:
        folder: of the training.
        checkpoints: in it.
        about: as `about_run` says it now.
        say: hears remarks.

    Raises:
        InputError: what is resumed was another run.
    """
    try:
        before = {"fsdp": False, **json.loads((folder / RUN).read_text("utf-8"))}
        differ = [key for key in _SAME if before[key] != about[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN} cannot be read: begin again with --overwrite") from error
    if differ:
        key = differ[0]
        raise InputError(
            f"{folder.parent} was begun with other {key} ({before[key]}, now {about[key]}): "
            "give the same, or begin again with --overwrite"
        )
    if before.get("finetune") != about["finetune"]:
        say("the settings of the stages differ from those it was begun with; the new ones hold")
    for path, position in checkpoints.newest():
        return path, position
    say("there is no checkpoint yet: beginning from the artifact")
    return None, Position()


def about_run(record: Artifact, data: Labelled, plan: Finetune) -> dict[str, Any]:
    """What a run is: some of it must be the same when it goes on, all of it is reported."""
    weights = record.path / WEIGHTS if record.path.is_dir() else record.path
    stages = [
        [s.name, s.epochs, s.steps, s.batch_size, s.accumulate, list(s.train)] for s in plan.stages
    ]
    return {
        "artifact": str(record.path),
        "weights": sha256_file(weights),
        "data": data.origin,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "fsdp": fsdp.is_asked(),
        "stages": json.loads(json.dumps(stages)),
        "finetune": json.loads(plan.model_dump_json()),
        "versions": {
            "dcnify": __version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
