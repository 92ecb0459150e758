"""Checkpoints of a run: each written whole or not at all, each checked before it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from dcnify.digest import sha256_file
from dcnify.files import replace_folder
from dcnify.finetune.parallel.processes import all_say
from dcnify.finetune.position import Position
from dcnify.words import first_line

KEPT = 2
_STATE = "dcnify.json"
_PARTIAL = ".partial"


class Checkpoints:
    """The checkpoints in one folder, newest last.

    Args:
        folder: made when the first one is written.
        say: hears, in one line each, of what went wrong and was survived.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say

    def write(self, save: Callable[[Path], None], position: Position, *, main: bool) -> bool:
        """Write one and drop all but the last `KEPT`; every process calls it.

        Args:
            save: writes files into a folder, in every process.
            position: of the run.
            main: whether this process speaks for all.

        Returns:
            Whether it was written. A disk that is full leaves the ones before as they are.
        """
        name = f"{position.stage:02d}-{position.step:08d}"
        partial = self.folder / _PARTIAL
        problem = _shared(lambda: _emptied(partial) if main else None)
        problem = problem or _shared(lambda: save(partial))
        problem = problem or _shared(lambda: self._seal(partial, name, position) if main else None)
        if problem and main:
            shutil.rmtree(partial, ignore_errors=True)
            self._say(f"no checkpoint at step {position.step}: {problem}; going on without")
        return not problem

    def newest(self) -> Iterator[tuple[Path, Position]]:
        """The sound ones, newest first; says which are not, and why."""
        for path in reversed(self._all()):
            try:
                yield path, _checked(path)
            except ValueError as error:
                self._say(f"{path} is damaged ({error}): going back to the one before")

    def clear(self) -> None:
        """Take all away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _seal(self, partial: Path, name: str, position: Position) -> None:
        hashes = {one.name: sha256_file(one) for one in sorted(partial.iterdir())}
        state = {"position": position.to_dict(), "files": hashes}
        (partial / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        replace_folder(partial, self.folder / name)
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(one for one in self.folder.iterdir() if not one.name.startswith("."))


def _checked(path: Path) -> Position:
    """
    Raises:
        ValueError: something in it is not what was written.
    """
    try:
        state = json.loads((path / _STATE).read_text("utf-8"))
        files, position = state["files"], Position.from_dict(state["position"])
    except (OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{_STATE} cannot be read") from error
    for name, wanted in files.items():
        file = path / Path(name).name
        if not file.is_file() or sha256_file(file) != wanted:
            raise ValueError(f"{name} is not as it was written")
    return position


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _shared(write: Callable[[], object]) -> str:
    """As `_tried`, with what any of the processes has met; each waits for the others."""
    return next((said for said in all_say(_tried(write)) if said), "")


def _tried(write: Callable[[], object]) -> str:
    """What a disk says against it; empty if nothing."""
    try:
        write()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except RuntimeError as error:  # torch's and safetensors' writers say this of a full disk
        return first_line(error)
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            return str(error)
        raise
    return ""
