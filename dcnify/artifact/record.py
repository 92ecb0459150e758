"""Read and check an artifact on disk, before any model is built from it."""

import hashlib
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
from dcnify.files import near_files, parse_json, read_json, read_text
from dcnify.graph.example import Example
from dcnify.sources.base import Base
from dcnify.sources.reading.weight_files import is_mappable, read_safetensors, read_weights
from dcnify.sources.reading.zips import check_zip
from dcnify.surgery.plan import Plan
from dcnify.words import shortened

_LARGEST_GOLDEN = 64 * 2**20


@dataclass(frozen=True)
class Artifact:
    """An artifact's description of itself. Reading one runs no code and builds nothing."""

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
            raise InputError(
                f"{self.path}: its plan's input {shortened(list(shape))} is not an image shape"
            )
        return 1, shape[1], shape[2], shape[3]

    def tensors(self) -> dict[str, Tensor]:
        """Every stored tensor, as ordinary memory on the CPU."""
        return self._read(self._weights)

    def mapped_tensors(self) -> dict[str, Tensor]:
        """Every stored tensor, left in its file where the format allows: for a look at each."""
        return self._read(self._weights, mapped=True)

    def golden(self) -> Golden | str:
        """An input and the output it gave when the model was saved, or why there is none."""
        about = self.config["dcnify"].get("golden")
        if about is None:
            return "written by a dcnify that kept none"
        if not isinstance(about, dict):
            raise InputError(f"{self.path}: the 'dcnify' block of its config is damaged")
        if "missing" in about:
            return str(about["missing"])
        return read_golden(self._read(self._golden), about, str(self.path))

    def example(self) -> Example | None:
        """How the model is called, where that is not with an image alone."""
        try:
            golden = self.golden()
        except InputError:  # `verify` says so
            return None
        return golden.call if isinstance(golden, Golden) else None

    def parts(self) -> tuple[str, ...]:
        """The parts that must have a hash: all but ``config.json``, which holds the hashes."""
        about = self.config["dcnify"].get("golden")
        kept = isinstance(about, dict) and "missing" not in about
        return (*self.texts, self._weights, *((self._golden,) if kept else ()))

    def damaged(self) -> tuple[str, ...]:
        """The parts whose SHA-256 differs from the recorded one."""
        written = self.config["dcnify"]["files"]
        names = dict.fromkeys((*self.parts(), *written))
        return tuple(
            name for name in names if name not in written or self._sha256(name) != written[name]
        )

    @property
    def _weights(self) -> str:
        return WEIGHTS if self.path.is_dir() else "state_dict"

    @property
    def _golden(self) -> str:
        return GOLDEN if self.path.is_dir() else "golden"

    def _read(self, part: str, *, mapped: bool = False) -> dict[str, Tensor]:
        if self.path.is_dir():
            file = self.path / part
            if part == GOLDEN and file.is_file() and file.stat().st_size > _LARGEST_GOLDEN:
                raise InputError(f"{file} is larger than {_LARGEST_GOLDEN >> 20} MiB")
            return read_safetensors(file, mapped=mapped)
        beside = part == self._golden  # the weights beside it stay in the file
        held = read_weights(self.path, mapped=mapped or beside).get(part)
        if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
            raise InputError(f"{self.path} is damaged: it holds no {part.replace('_', ' ')}")
        return {name: value.clone() for name, value in held.items()} if beside else held

    def _sha256(self, part: str) -> str | None:
        """The current hash of a part; None if it is missing or cannot be read."""
        if part in self.texts:
            return sha256_text(self.texts[part])
        if part not in (self._weights, self._golden):
            return None
        try:
            if not self.path.is_dir():
                return sha256_tensors(self._read(part))
            file = self.path / part
            return sha256_file(file) if file.is_file() else None
        except InputError:
            return None


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """Read what an artifact says about itself.

    Args:
        path: an artifact folder, or a ``.pt`` file that `dcnify.save` wrote.

    Raises:
        InputError: it is not an artifact, of another format, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        missing = [name for name in FILES if not (path / name).is_file()]
        if CONFIG in missing:
            raise InputError(f"{path} is not an artifact: a folder with {', '.join(FILES)}")
        texts = {name: read_text(path / name) for name in FILES if name not in (*missing, WEIGHTS)}
        config = parse_json(texts.pop(CONFIG), path / CONFIG)
        read_block(config, str(path))
        if missing:
            raise InputError(f"{path} is incomplete: {', '.join(missing)} missing")
    elif path.exists():
        if path.is_file():
            check_zip(path)
        held = read_weights(path, mapped=True)
        if not _is_artifact_file(held):
            raise InputError(f"{path} is a weight file, not an artifact; convert it first")
        config = held.get("config")
        texts = {PLAN: held.get("plan"), RECIPE: held.get("recipe"), REPORT: held.get("report")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise InputError(f"{path} is damaged: its plan, recipe or report is not text")
    else:
        raise InputError(f"{path} does not exist{near_files(path)}")
    block = read_block(config, str(path))
    try:
        base, plan = Base.from_dict(block.get("base")), Plan.from_json(texts[PLAN])
    except RecursionError:
        raise InputError(f"{path}: the plan is nested too deeply") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    report = parse_json(texts[REPORT], path / REPORT if path.is_dir() else path)
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


def is_artifact(path: Path) -> bool:
    """Whether an existing file or folder is an artifact, intact or not."""
    try:
        if path.is_dir():
            block = read_json(path / CONFIG)["dcnify"]
            return isinstance(block, dict) and {"format", "base", "files"} <= block.keys()
        return is_mappable(path) and _is_artifact_file(read_weights(path, mapped=True))
    except (InputError, TypeError, KeyError):
        return False


def _is_artifact_file(held: Any) -> bool:
    return isinstance(held, dict) and held.get("format") == FILE_FORMAT


def sha256_text(text: str) -> str:
    """The hash of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
