"""Find the text of a recipe by name or path, and build documents with errors that say where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dcnify.errors import InputError
from dcnify.files import is_regular
from dcnify.recipe.builtin import builtins
from dcnify.recipe.finetune.presets import stage_presets
from dcnify.recipe.part import Document
from dcnify.recipe.reading.document import MAX_BYTES, decode
from dcnify.recipe.reading.explain import close_name, explain
from dcnify.recipe.reading.origins import Origins

SUFFIXES = (".yaml", ".yml")
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Pipes that a shell opened: somebody writes to them."""
Built = TypeVar("Built", bound=Document)


def source_text(name_or_path: str | os.PathLike[str]) -> tuple[str, str]:
    """The text that a name or path stands for, comments and all, and what errors call it."""
    if not is_path(name_or_path) and (found := builtins().get(os.fspath(name_or_path))):
        return found.text, f"{found.name}.yaml (built-in)"
    return read_file(name_or_path), os.fspath(name_or_path)


def build(data: dict[str, Any], origins: Origins, model: type[Built]) -> Built:
    """A document from plain data, with errors that know where each value was written."""
    try:
        built = model.model_validate(data)
    except ValidationError as error:
        raise explain(error, data, origins, model) from None
    built._origins = origins
    return built


def read_file(path: str | os.PathLike[str]) -> str:
    """The text of a recipe file.

    Raises:
        InputError: it cannot be read, or is too large or not text.
    """
    shown = os.fspath(path)
    try:
        if (
            not shown.startswith(_STREAMS)
            and not os.path.isdir(path)
            and not is_regular(Path(path))
        ):
            raise InputError(f"{shown}: not a regular file; expected a YAML file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except InputError:
        raise
    except IsADirectoryError:
        raise InputError(f"{shown}: a folder; expected a YAML file") from None
    except FileNotFoundError:
        raise InputError(_not_found(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shown!r}: cannot be read: {reason.lower()}") from None
    return decode(data, shown)


def is_path(name: str | os.PathLike[str]) -> bool:
    if not isinstance(name, str):
        return True
    return "/" in name or os.sep in name or name.lower().endswith(SUFFIXES)


def _not_found(path: str | os.PathLike[str]) -> str:
    shown, names = os.fspath(path), list(builtins())
    if not is_path(path):
        if shown in stage_presets():
            return f"{shown!r} is a stage, not a recipe; a recipe has it as 'finetune: [{shown}]'"
        match, stage = close_name(shown, names), close_name(shown, list(stage_presets()))
        hint = f", did you mean {match!r}?" if match else "."
        hint = f", did you mean the stage {stage!r}?" if stage and not match else hint
        return (
            f"no recipe {shown!r}{hint} Built in: {', '.join(names)}; "
            f"a file needs its path, such as ./{shown or 'recipe'}.yaml"
        )
    file = Path(shown)
    siblings = {f.stem: f for suffix in SUFFIXES for f in _files(file.parent, suffix)}
    if match := close_name(file.stem, list(siblings)):
        return f"{shown}: no such file, did you mean {str(siblings[match])!r}?"
    if file.stem in names:
        return f"{shown}: no such file, did you mean the built-in {file.stem!r}?"
    return f"{shown}: no such file"


def _files(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(folder.glob(f"*{suffix}"))
    except OSError:
        return []
