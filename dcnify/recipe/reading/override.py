"""Overrides: ``swaps.late.replace.kernel_size=5`` changes one value of a recipe's data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dcnify.errors import InputError
from dcnify.recipe.reading.document import read_value
from dcnify.recipe.reading.expand import LENGTHS, written_out
from dcnify.recipe.reading.explain import did_you_mean, keys_at
from dcnify.recipe.reading.origins import NAMED, DataPath, Origins
from dcnify.recipe.reading.shorthand import shown

EXAMPLE = "swaps.late.replace.kernel_size=5"


@dataclass(frozen=True)
class Change:
    """One value of a recipe to change."""

    path: str
    """``swaps.late.replace.kernel_size``; swaps and stages by name or index."""
    value: Any
    label: str
    """What errors begin with: a ``--set``, or a place in a file."""

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read ``PATH=VALUE``.

        Raises:
            InputError: it is not that, or the value is not YAML.
        """
        name = f"--set {' '.join(text.split())}"
        name = name if len(name) <= 120 else f"{name[:117]}..."
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise InputError(f"{name}: expected PATH=VALUE, such as --set {EXAMPLE}")
        return cls(path.strip(), read_value(value, name), name)


def apply_overrides(
    data: dict[str, Any],
    origins: Origins,
    overrides: Iterable[str | Change],
    model: type[BaseModel],
    finetune: DataPath = ("finetune",),
) -> tuple[dict[str, Any], Origins]:
    """The data with each override in place, and origins that say which values came from one.

    Later overrides win. Sections that the recipe does not have yet are made. Short forms of
    fine-tuning are written out before and after each, so that its stages have their names.

    Args:
        finetune: path of the fine-tuning section; the root, where it is a document by itself.
            Overrides may begin with ``finetune.`` there too.

    Raises:
        InputError: not ``PATH=VALUE``, a value that is not YAML, or a path that leads nowhere.
    """
    data, origins = written_out(data, origins, finetune)
    for one in overrides:
        change = Change.parse(one) if isinstance(one, str) else one
        keys = change.path.split(".")
        if not finetune and keys[0] == "finetune":
            keys = keys[1:] or keys
        data = copy.deepcopy(data)
        path = _assign(data, keys, copy.deepcopy(change.value), change.label, model)
        data, origins = written_out(data, origins.overridden(path, change.label), finetune)
    return data, origins


def _assign(
    data: dict[str, Any], keys: list[str], value: Any, name: str, model: type[BaseModel]
) -> DataPath:
    """Put ``value`` at the end of ``keys``; returns the path with names as indices."""
    here: Any = data
    path: DataPath = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, dict):
            valid = keys_at(model, path)
            if key not in valid and path[-1:] != ("options",):
                known = f"; the keys are {', '.join(valid)}" if valid else ""
                raise InputError(f"{name}: unknown key {key!r}{did_you_mean(key, valid) or known}")
            step: str | int = key
            if not last and here.get(key) is None:
                if noun := NAMED.get((*path, key)):
                    whole = ".".join(map(str, (*path, key)))
                    such = f", such as --set {whole}=[align, recover]" if noun == "stage" else ""
                    raise InputError(f"{name}: there is no {noun} yet; give a whole list{such}")
                here[key] = {}
            if last and path[:-1] in NAMED and value is not None:
                here.pop(LENGTHS.get(key), None)  # a stage has one length, and this is the last
        elif isinstance(here, list):
            step = _index(here, key, path, name)
        else:
            where = ".".join(keys[:depth])
            raise InputError(f"{name}: {where} is {shown(here)}, with nothing beneath; set {where}")
        path = (*path, step)
        if last:
            here[step] = value
        else:
            here = here[step]
    return path


def _index(items: list[Any], key: str, path: DataPath, name: str) -> int:
    if path in NAMED:
        names = [item.get("name") if isinstance(item, dict) else None for item in items]
        if key in names:
            return names.index(key)
        if not key.isdecimal():
            known = [n for n in names if isinstance(n, str)]
            hint = did_you_mean(key, known) or f"; there is {', '.join(map(repr, known))}"
            raise InputError(f"{name}: no {NAMED[path]} named {key!r}{hint}")
    where = ".".join(map(str, path))
    if not (key.isascii() and key.isdecimal() and len(key) < 6 and int(key) < len(items)):
        held = f"items 0 to {len(items) - 1}" if items else "no items"
        raise InputError(f"{name}: no item {key!r}; {where} has {held}")
    return int(key)
