"""The file of a sweep in its folder: what it is about, and which trials belong to which point."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnify._version import __version__
from dcnify.ablate.state.storage import has_password, without_password
from dcnify.errors import InputError
from dcnify.files import read_json, write_file
from dcnify.spec import Spec

FILE, STATE = "ablation.json", "state.db"
TRIALS, CONVERSIONS, MODELS, REPORT, LOGS = "trials", "converted", "models", "report", "workers"


@dataclass(frozen=True, kw_only=True)
class PointRecord(Spec):
    """A point of the sweep."""

    values: dict[str, Any]
    """By path in the recipe."""
    trials: tuple[str, ...]
    """The hash of its trial for each seed."""


@dataclass(frozen=True, kw_only=True)
class AblationRecord(Spec):
    """What ``ablation.json`` says."""

    version: str
    sweep: str
    """The sweep's name, and that of the study in the storage."""
    description: str
    factors: dict[str, list[Any]]
    seeds: tuple[int, ...]
    measure: tuple[str, ...]
    points: list[dict[str, Any]]
    """As `PointRecord`."""
    base: int
    setting: dict[str, Any]
    """As `dcnify.ablate.trial.Setting`."""
    storage: str | None
    """URL of the storage without its password; None for the SQLite file in the folder."""

    def point(self, index: int) -> PointRecord:
        """One of the points."""
        return PointRecord.from_dict(self.points[index])

    @property
    def all_points(self) -> list[PointRecord]:
        """The points in their order."""
        return [PointRecord.from_dict(one) for one in self.points]

    @property
    def paths(self) -> list[str]:
        """The paths that points set, each once: the factors first."""
        return list(
            dict.fromkeys((*self.factors, *(p for one in self.points for p in one["values"])))
        )

    @property
    def hashes(self) -> list[str]:
        """The hashes of all trials, each once."""
        return list(dict.fromkeys(one for point in self.points for one in point["trials"]))


def read_record(folder: Path) -> AblationRecord:
    """Read the record of a folder.

    Raises:
        InputError: it is not the folder of an ablation, or one of another version of dcnify.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no ablation: begin one with 'dcnify ablate run'")
    data = read_json(path)
    version = data.get("version") if isinstance(data, dict) else None
    if version != __version__:
        raise InputError(
            f"{folder} was made by dcnify {version}, and this is {__version__}: take that one, or "
            "another folder"
        )
    try:
        return AblationRecord.from_dict(data)
    except InputError as error:
        raise InputError(f"{path} is not the record of an ablation: {error}") from None


def write_record(folder: Path, record: AblationRecord) -> None:
    """Write ``ablation.json``."""
    text = json.dumps(record.to_dict(), indent=1) + "\n"
    write_file(folder / FILE, lambda path: path.write_text(text, "utf-8"), overwrite=True)


def write_trial(folder: Path, name: str, data: dict[str, Any]) -> None:
    """Write the JSON of one trial."""
    (folder / TRIALS).mkdir(exist_ok=True)
    text = json.dumps(data, indent=1) + "\n"
    write_file(folder / TRIALS / f"{name}.json", lambda path: path.write_text(text, "utf-8"), True)


def storage_url(folder: Path, record: AblationRecord, given: str | None) -> str:
    """The URL of the storage of a folder.

    Raises:
        InputError: another one is given, or it has a password, which no file holds.
    """
    if record.storage is None:
        if given is not None:
            raise InputError(f"{folder} keeps its state in {STATE}: leave --storage out")
        return f"sqlite:///{folder / STATE}"
    if given is None:
        if has_password(record.storage):
            raise InputError(f"{folder} keeps its state in {record.storage}: give it as --storage")
        return record.storage
    if without_password(given) != record.storage:
        raise InputError(f"{folder} keeps its state in {record.storage}, not in the one given")
    return given
