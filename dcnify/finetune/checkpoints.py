"""Checkpoints of a run: each is written whole or not at all, and checked before it is used."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from dcnify.digest import sha256_file
from dcnify.errors import InputError
from dcnify.files import replace_folder
from dcnify.finetune.parallel.processes import gather_objects
from dcnify.finetune.score import Score
from dcnify.spec import Spec
from dcnify.words import first_line

KEPT = 2
_STATE = "dcnify.json"


@dataclass(frozen=True)
class TrainingState(Spec):
    """Where a run is: after ``step`` updates of stage ``stage``."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent training, over all resumptions."""
    lines: int = 0
    """Lines of the metrics file so far."""
    best: float | None = None
    """Value of the best validation so far, over all stages."""
    best_distance: float | None = None
    """Its distance from the original, without labels."""
    best_at: tuple[int, int] = (0, 0)
    """Stage and step of the best validation."""
    accuracies: dict[str, float] = field(default_factory=dict)
    """`Score.value` at the end of each stage by its name, and of ``original`` and ``converted``."""
    distances: dict[str, float] = field(default_factory=dict)
    """`Score.distance` of the same, without labels."""
    measure: str = "accuracy"
    """`Score.measure` of all of them."""

    def __post_init__(self) -> None:
        if not all(type(n) is int and n >= 0 for n in (self.stage, self.step)):
            raise ValueError("stage and step must be counts")

    def with_score(self, name: str, score: Score) -> Self:
        """Return the state with the score of a model: of ``converted``, or after a stage."""
        accuracies = {**self.accuracies, name: score.value}
        distances = dict(self.distances)
        if score.distance is not None:
            distances[name] = score.distance
        return replace(self, accuracies=accuracies, distances=distances, measure=score.measure)

    def with_best(self, score: Score, stage: int) -> Self | None:
        """Return the state with ``score`` as its best; None if the best so far is better.

        With labels the highest accuracy is best. Without, it is the least distance among those
        whose value is not below the converted model's.
        """
        if self.best is not None and score.distance is None and score.value <= self.best:
            return None
        if self.best_distance is not None and score.distance is not None:
            lowest = self.accuracies.get("converted", -1.0)
            if not (score.distance < self.best_distance and score.value >= lowest):
                return None
        return replace(
            self, best=score.value, best_distance=score.distance, best_at=(stage, self.step)
        )


class Checkpoints:
    """The checkpoints in one folder; ``say`` is called with each problem that was survived."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self._partial = folder / ".partial"

    def write(self, save: Callable[[Path], None], state: TrainingState, *, main: bool) -> bool:
        """Write a checkpoint and delete all but the last `KEPT`; every process calls it.

        ``save`` writes files into a folder, in every process. Return whether it was written: a full
        disk leaves the earlier checkpoints as they are.
        """

        def create() -> None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)

        problem = _in_all_processes(create if main else None)
        problem = problem or _in_all_processes(lambda: save(self._partial))
        problem = problem or _in_all_processes((lambda: self._complete(state)) if main else None)
        if problem and main:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._say(f"no checkpoint at step {state.step}: {problem}; going on without")
        return not problem

    def newest(self) -> Iterator[tuple[Path, TrainingState]]:
        """Yield the intact checkpoints, newest first, and report each damaged one."""
        for path in reversed(self._all()):
            try:
                yield path, _read(path)
            except ValueError as error:
                self._say(f"{path} is damaged ({error}): going back to the one before")

    def clear(self) -> None:
        """Delete all checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self, state: TrainingState) -> None:
        hashes = {one.name: sha256_file(one) for one in sorted(self._partial.iterdir())}
        written = {"position": state.to_dict(), "files": hashes}
        (self._partial / _STATE).write_text(json.dumps(written, indent=1), encoding="utf-8")
        replace_folder(self._partial, self.folder / f"{state.stage:02d}-{state.step:08d}")
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(one for one in self.folder.iterdir() if not one.name.startswith("."))


def _read(path: Path) -> TrainingState:
    """Return the state; raise `ValueError` if a file differs from what was written."""
    try:
        written = json.loads((path / _STATE).read_text("utf-8"))
        files, state = written["files"], TrainingState.from_dict(written["position"])
    except (OSError, KeyError, TypeError, ValueError, InputError) as error:
        raise ValueError(f"{_STATE} cannot be read") from error
    for name, wanted in files.items():
        file = path / Path(name).name
        if not file.is_file() or sha256_file(file) != wanted:
            raise ValueError(f"{name} is not as it was written")
    return state


def _in_all_processes(write: Callable[[], object] | None) -> str:
    """Call ``write`` and wait for the other processes; return the first disk error of any."""
    return next((problem for problem in gather_objects(_disk_error(write)) if problem), "")


def _disk_error(write: Callable[[], object] | None) -> str:
    """Call ``write``; return the disk's error, or nothing."""
    try:
        if write is not None:
            write()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except RuntimeError as error:  # torch's and safetensors' writers raise this for a full disk
        return first_line(error)
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            return str(error)
        raise
    return ""
