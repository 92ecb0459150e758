"""An artifact as it lies on disk, read and checked, before any model is built from it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dcnify.artifact.config import read_block
from dcnify.artifact.golden import LARGEST_INPUT, Golden, read_golden
from dcnify.artifact.layout import (
    CONFIG,
    FILE_FORMAT,
    FILES,
    GOLDEN,
    PLAN,
    RECIPE,
    REPORT,
    WEIGHTS,
)
from dcnify.digest import sha256_file, sha256_tensors
from dcnify.errors import InputError
from dcnify.files import near_files
from dcnify.graph.example import Example
from dcnify.sources.base import Base
from dcnify.sources.compare import Shapes, shapes_of
from dcnify.sources.weight_files import read_safetensors, read_weights, safetensors_shapes
from dcnify.surgery.plan import Plan
from dcnify.words import first_line

_LARGEST_TEXT = 64 * 2**20
_LARGEST_GOLDEN = 64 * 2**20


@dataclass(frozen=True)
class Artifact:
    """What an artifact says about itself. Reading one runs no code and builds nothing."""

    path: Path
    config: dict[str, Any]
    base: Base
    plan: Plan
    recipe: str
    """The resolved recipe, YAML text."""
    report: dict[str, Any]
    aliases: dict[str, str]
    """Names in the state dict that are another name's tensor."""
    buffers: tuple[str, ...]
    """Stored tensors that are not in the model's state dict."""
    texts: dict[str, str]
    """The text files by name, as they were read."""

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W) of the input it was converted at.

        Raises:
            InputError: the plan has no such shape.
        """
        shape = self.plan.input_shape
        whole = len(shape) == 4 and all(type(n) is int and n > 0 for n in shape)
        if not whole or math.prod(shape[1:]) > LARGEST_INPUT:
            raise InputError(f"{self.path}: its plan's input {list(shape)} is no image's shape")
        return 1, shape[1], shape[2], shape[3]

    def tensors(self) -> dict[str, Tensor]:
        """Every stored tensor, as ordinary memory on the CPU.

        Raises:
            InputError: the weights are missing, truncated, or no tensors.
        """
        if self.path.is_dir():
            return read_safetensors(self.path / WEIGHTS)
        return _state_dict(read_weights(self.path), self.path)

    def shapes(self) -> Shapes:
        """Name and shape of every stored tensor, read without reading the tensors."""
        if self.path.is_dir():
            return safetensors_shapes(self.path / WEIGHTS)
        return shapes_of(_state_dict(read_weights(self.path, mapped=True), self.path))

    def golden(self) -> Golden | str:
        """An input and the output it gave when the model was saved, or why there is none.

        Raises:
            InputError: it is missing, truncated, or no such pair.
        """
        about = self.config["dcnify"].get("golden")
        if about is None:
            return "written by a dcnify that kept none"
        if not isinstance(about, dict):
            raise InputError(f"{self.path}: the 'dcnify' block of its config is damaged")
        if "missing" in about:
            return str(about["missing"])
        return read_golden(self._golden_tensors(), about, str(self.path))

    def example(self) -> Example | None:
        """How the model is called, where that is not with an image alone."""
        try:
            golden = self.golden()
        except InputError:  # `verify` says so
            return None
        return golden.call if isinstance(golden, Golden) else None

    def _golden_tensors(self) -> dict[str, Tensor]:
        if self.path.is_dir():
            file = self.path / GOLDEN
            if file.is_file() and file.stat().st_size > _LARGEST_GOLDEN:
                raise InputError(f"{file} is larger than {_LARGEST_GOLDEN >> 20} MiB")
            return read_safetensors(file)
        held = read_weights(self.path, mapped=True).get("golden")
        if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
            raise InputError(f"{self.path}: its golden output is damaged")
        return {name: value.clone() for name, value in held.items()}

    def parts(self) -> tuple[str, ...]:
        """The parts that must have a hash: all but ``config.json``, which holds the hashes."""
        about = self.config["dcnify"].get("golden")
        kept = isinstance(about, dict) and "missing" not in about
        folder = self.path.is_dir()
        golden = (GOLDEN if folder else "golden",) if kept else ()
        return (*self.texts, WEIGHTS if folder else "state_dict", *golden)

    def damaged(self) -> tuple[str, ...]:
        """The parts whose SHA-256 is not the one that was written; empty if all is well."""
        written = self.config["dcnify"]["files"]
        names = dict.fromkeys((*self.parts(), *written))
        return tuple(
            name for name in names if name not in written or self._sha256(name) != written[name]
        )

    def _sha256(self, name: str) -> str | None:
        """Of a part as it is now; None for one that is not there or cannot be read."""
        if name in self.texts:
            return sha256_text(self.texts[name])
        try:
            if self.path.is_dir():
                there = name in (WEIGHTS, GOLDEN) and (self.path / name).is_file()
                return sha256_file(self.path / name) if there else None
            if name == "state_dict":
                return sha256_tensors(self.tensors())
            return sha256_tensors(self._golden_tensors()) if name == "golden" else None
        except InputError:
            return None


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read what an artifact says about itself.

    Args:
        path: an artifact folder, or a ``.pt`` file that `dcnify.save` wrote.

    Raises:
        InputError: not an artifact, of another format, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        missing = [name for name in FILES if not (path / name).is_file()]
        if CONFIG in missing:
            raise InputError(f"{path} is no artifact: a folder with {', '.join(FILES)}")
        texts = {name: _text(path / name) for name in FILES if name not in (*missing, WEIGHTS)}
        config = _json(texts.pop(CONFIG), path / CONFIG)
        read_block(config, str(path))
        if missing:
            raise InputError(f"{path} is incomplete: {', '.join(missing)} missing")
    elif path.exists():
        held = read_weights(path, mapped=True)
        if not is_artifact_file(held):
            raise InputError(f"{path} is a weight file, not an artifact; convert it first")
        config = held.get("config")
        texts = {PLAN: held.get("plan"), RECIPE: held.get("recipe"), REPORT: held.get("report")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise InputError(f"{path} is damaged: its plan, recipe or report is no text")
    else:
        raise InputError(f"{path} does not exist{near_files(path)}")
    block = read_block(config, str(path))
    try:
        base, plan = Base.from_dict(block.get("base")), Plan.from_json(texts[PLAN])
    except RecursionError:
        raise InputError(f"{path}: the plan is nested too deeply") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    report = _json(texts[REPORT], path / REPORT if path.is_dir() else path)
    return Artifact(
        path=path,
        config=config,
        base=base,
        plan=plan,
        recipe=texts[RECIPE],
        report=report if isinstance(report, dict) else {},
        aliases=block["aliases"],
        buffers=tuple(block["buffers"]),
        texts=texts,
    )


def is_artifact_file(held: Any) -> bool:
    """Whether what a ``.pt`` file holds is an artifact."""
    return isinstance(held, dict) and held.get("format") == FILE_FORMAT


def sha256_text(text: str) -> str:
    """The hash of a text as it is written, in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _state_dict(held: Any, path: Path) -> dict[str, Tensor]:
    state = held.get("state_dict") if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is damaged: it holds no state dict")
    return state


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise InputError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from None


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {first_line(error)}") from None
