"""What a run reports as it goes: lines of JSON always, TensorBoard where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcnify.errors import InputError
from dcnify.files import write_file


@dataclass(frozen=True)
class Beat:
    """Where the training is at one moment, for whoever watches."""

    stage: str
    stage_index: int
    stages: int
    epoch: int
    """From 0."""
    step: int
    """Updates of this stage that are done."""
    steps: int
    """Of this stage in all."""
    loss: float
    terms: dict[str, float]
    lr: float
    images_per_second: float
    seconds_left: float
    """Of the whole run, at this speed."""
    memory: int
    """Bytes: the most that the device has held, or this process on the CPU."""
    blend: float | None = None
    """Share of the old layers, where they hand over."""


Watch = Callable[[Beat], None]


class Metrics:
    """A JSONL file that a resumed run continues where its checkpoint was, and TensorBoard.

    Args:
        path: of the file; None to write nothing, as all processes but the main one do.
        lines: how many of its lines are kept; what comes after them is from a lost sitting.
        tensorboard: a folder for its events, or None.
    """

    def __init__(self, path: Path | None, lines: int, tensorboard: Path | None) -> None:
        self.lines = lines
        self._file = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut(path, lines)
            self._file = path.open("a", encoding="utf-8")
        self._board = _board(tensorboard) if tensorboard is not None else None

    def beat(self, beat: Beat) -> None:
        """Write one line of training."""
        values = {key: value for key, value in asdict(beat).items() if value is not None}
        self._line({"kind": "train", **values})
        scalars = {"loss": beat.loss, "lr": beat.lr, "images per second": beat.images_per_second}
        scalars |= {f"loss of {name}": value for name, value in beat.terms.items()}
        self._scalars(beat.stage, scalars, beat.step)

    def looked(self, stage: str, step: int, values: dict[str, Any]) -> None:
        """Write one line of validation."""
        self._line({"kind": "validation", "stage": stage, "step": step, **values})
        self._scalars(stage, values, step)

    def close(self) -> None:
        """Let go of the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _line(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        except OSError:  # a full disk costs the line, not the training
            return
        self.lines += 1

    def _scalars(self, stage: str, values: dict[str, Any], step: int) -> None:
        for name, value in values.items() if self._board is not None else ():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{stage}/{name}", value, step)


def _cut(path: Path, lines: int) -> None:
    """Keep the first so many lines, in one replacement."""
    if not path.exists():
        return
    kept = path.read_text("utf-8", errors="replace").splitlines(keepends=True)[:lines]
    write_file(path, lambda new: new.write_text("".join(kept), "utf-8"), overwrite=True)


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard needs the package tensorboard: pip install 'dcnify[train]'"
        ) from None
    return SummaryWriter(str(folder))


def memory_of(device_type: str) -> int:
    """Bytes that the device has held at most, or this process."""
    import torch

    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    except ImportError:  # Windows
        return 0
