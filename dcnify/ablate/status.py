"""How far a sweep has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dcnify.ablate.state.record import read_record, storage_url
from dcnify.ablate.state.store import FAILED, RUNNING, open_store
from dcnify.ablate.state.tally import counts


class _Which(Protocol):
    @property
    def folder(self) -> Path: ...

    @property
    def storage(self) -> str | None: ...


@dataclass(frozen=True)
class Status:
    """The states of a sweep's trials."""

    sweep: str
    counts: dict[str, int]
    """Trials by state."""
    workers: tuple[str, ...]
    """Who has a trial now: ``host, process 123``."""
    errors: tuple[str, ...]
    """Why trials failed."""

    @classmethod
    def read(cls, which: _Which) -> Status:
        """Read it from the storage of a folder.

        Raises:
            InputError: it is not the folder of an ablation, or its storage cannot be read.
        """
        folder = which.folder.resolve()
        record = read_record(folder)
        rows = open_store(storage_url(folder, record, which.storage), record.sweep).latest()
        ours = [rows[one] for one in record.hashes if one in rows]
        return cls(
            sweep=record.sweep,
            counts=counts(record, rows),
            workers=tuple(
                f"{row.owner['host']}, process {row.owner['pid']}"
                for row in ours
                if row.state == RUNNING and row.owner
            ),
            errors=tuple(
                dict.fromkeys((row.result or {})["error"] for row in ours if row.state == FAILED)
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sweep": self.sweep,
            "counts": self.counts,
            "workers": list(self.workers),
            "errors": list(self.errors),
        }

    def lines(self) -> list[str]:
        """The same in words."""
        told = ", ".join(f"{count} {state}" for state, count in sorted(self.counts.items()))
        lines = [f"{self.sweep}: {sum(self.counts.values())} trials: {told}"]
        lines += [f"running: {one}" for one in self.workers]
        return lines + [f"failed: {one}" for one in self.errors]
