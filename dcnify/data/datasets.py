"""Datasets by name. The built-in ones need no download."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from torch.utils.data import Dataset

from dcnify.data.digits import ClutteredDigits
from dcnify.errors import InputError

BUILTIN: dict[str, Callable[..., Dataset[Any]]] = {"builtin:cluttered-digits": ClutteredDigits}
"""Every name `open_dataset` knows."""


def open_dataset(name: str, split: str = "train", **options: Any) -> Dataset[Any]:
    """The dataset called `name`.

    Args:
        name: a name that starts with ``builtin:``, such as ``builtin:cluttered-digits``.
        split: ``train`` or ``validation``.
        options: passed on to the dataset; see `ClutteredDigits`.

    Raises:
        InputError: no dataset has that name, or it has no such split or option.
    """
    if name in BUILTIN:
        try:
            inspect.signature(BUILTIN[name]).bind(split, **options)
        except TypeError as error:
            raise InputError(f"{name}: {error}") from None
        return BUILTIN[name](split, **options)
    near = difflib.get_close_matches(name, BUILTIN, n=1, cutoff=0.5)
    if name.startswith("builtin:") and near:
        raise InputError(f"unknown dataset {name!r}, did you mean {near[0]!r}?")
    raise InputError(f"unknown dataset {name!r}: there are {', '.join(BUILTIN)}")
