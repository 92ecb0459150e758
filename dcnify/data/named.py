"""Errors of code that does not know by which option the person named the images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dcnify.errors import InputError


class PlaceError(InputError):
    """Something is wrong with the place that was named; `named` says by which option."""


@contextmanager
def named(option: str) -> Iterator[None]:
    """Let every `PlaceError` inside begin with the option: ``data: no image files in photos``."""
    try:
        yield
    except PlaceError as error:
        raise InputError(f"{option}: {error}") from None
