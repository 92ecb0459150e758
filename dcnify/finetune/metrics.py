"""Report a run as it goes: to a JSONL file, to TensorBoard, and to the caller."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcnify.errors import InputError
from dcnify.files import write_file
from dcnify.finetune.score import Score


@dataclass(frozen=True)
class StepMetrics:
    """Where the training is after a step."""

    stage: str
    stage_index: int
    stages: int
    epoch: int
    """From 0."""
    step: int
    """Updates of this stage that are done."""
    steps: int
    """All updates of this stage."""
    loss: float
    terms: dict[str, float]
    lr: float
    images_per_second: float
    seconds_left: float
    """Estimate for the rest of the run, at this speed."""
    memory: int
    """Peak memory in bytes: of the device, or of this process on the CPU."""
    blend: float | None = None
    """Share of the old layers, where some hand over."""


Watch = Callable[[StepMetrics], None]
Looked = Callable[[str, int, Score], None]
"""Called with the stage, the step and the result of each validation."""
Say = Callable[[str], None]
"""Called with remarks of one line each."""


class Reporter:
    """Write metrics to a JSONL file and TensorBoard, and pass them on to the caller.

    A resumed run continues the file at the line its checkpoint records.

    Args:
        path: the file; None to report nothing, as all processes but the main one do.
        lines: how many lines of the file to keep; later ones are from steps that were lost.
        tensorboard: a folder for TensorBoard events, or None.
        watch, looked, say: as in `dcnify.finetune.finetune`.
    """

    def __init__(
        self,
        path: Path | None,
        lines: int = 0,
        tensorboard: Path | None = None,
        *,
        watch: Watch | None = None,
        looked: Looked | None = None,
        say: Say = print,
    ) -> None:
        self.lines, self.say = lines, say
        self._watch, self._looked = watch, looked
        self._file = self._board = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                text = path.read_text("utf-8", errors="replace")
                kept = "".join(text.splitlines(keepends=True)[:lines])
                write_file(path, lambda new: new.write_text(kept, "utf-8"), overwrite=True)
            self._file = path.open("a", encoding="utf-8")
            self._board = _tensorboard(tensorboard) if tensorboard is not None else None

    def step(self, metrics: StepMetrics) -> None:
        """Report a step of the training."""
        values = {key: value for key, value in asdict(metrics).items() if value is not None}
        scalars = {key: values[key] for key in ("loss", "lr")}
        scalars["images per second"] = metrics.images_per_second
        scalars |= {f"loss of {name}": value for name, value in metrics.terms.items()}
        self._write({"kind": "train", **values}, scalars)
        if self._file is not None and self._watch is not None:
            self._watch(metrics)

    def validation(self, stage: str, step: int, score: Score) -> None:
        """Report a validation; ``stage`` may be ``original`` or ``converted``."""
        values = score.to_dict()
        self._write({"kind": "validation", "stage": stage, "step": step, **values}, values)
        if self._file is not None and self._looked is not None:
            self._looked(stage, step, score)

    def close(self) -> None:
        """Close the files."""
        for one in (self._file, self._board):
            if one is not None:
                one.close()

    def _write(self, line: dict[str, Any], scalars: dict[str, float]) -> None:
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(f"{line['stage']}/{name}", value, line["step"])
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError:  # a full disk costs the line, not the training
            return
        self.lines += 1


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard needs the package tensorboard: pip install 'dcnify[train]'"
        ) from None
    return SummaryWriter(str(folder))


def peak_memory(device_type: str) -> int:
    """Return the peak memory in bytes: of the GPU, or of this process on the CPU."""
    import torch

    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
