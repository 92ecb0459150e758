"""What a search has measured, one file each, so that a search that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dcnify._version import __version__
from dcnify.errors import InputError
from dcnify.files import write_file

FOLDER = "measured"


@dataclass(frozen=True)
class Measured:
    """A set of swaps as it was measured."""

    paths: tuple[str, ...]
    outputs: Tensor | None
    """(N, D) on the measured images; None if the conversion was refused."""
    params: int = 0
    """Parameters of the converted model."""
    sqnr_db: dict[str, float] = field(default_factory=dict)
    """Fidelity of each new layer."""
    latency: float | None = None
    """Milliseconds; measured of chosen sets only."""
    latency_ratio: float | None = None
    flops_ratio: float | None = None
    """As a run of both models was counted."""
    refused: str = ""
    """Why the recipe does not convert this set."""
    seconds: float = 0.0


class Store:
    """The measurements in a folder.

    Args:
        folder: of the search.
        about: what they all depend on, JSON-ready: weights, images, seed.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._folder, self._about = folder / FOLDER, {"dcnify": __version__, **about}

    def path(self, what: Any) -> Path:
        """The file of a measurement: ``what`` is measured, JSON-ready."""
        text = json.dumps([self._about, what], sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def read(self, what: Any) -> Measured | None:
        """A measurement, if it is there and whole."""
        path = self.path(what)
        try:
            with safe_open(path, framework="pt") as file:
                data = json.loads((file.metadata() or {})["measured"])
                outputs = file.get_tensor("outputs") if data["refused"] == "" else None
            return Measured(**{**data, "paths": tuple(data["paths"]), "outputs": outputs})
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def write(self, what: Any, found: Measured) -> None:
        """Keep a measurement; the file is there whole or not at all.

        Raises:
            InputError: the folder cannot be made.
            DcnifyError: the disk is full.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self._folder} cannot be made: {error.strerror}") from None
        tensors = {} if found.outputs is None else {"outputs": found.outputs.contiguous()}
        data = {name: value for name, value in vars(found).items() if name != "outputs"}
        metadata = {"measured": json.dumps(data)}
        write_file(self.path(what), lambda path: save_file(tensors, path, metadata), True)


def size_of(count: int) -> str:
    """``1 layer``, ``5 layers``."""
    return f"{count} layer{'' if count == 1 else 's'}"
