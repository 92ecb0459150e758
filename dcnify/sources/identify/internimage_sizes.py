"""Describe an InternImage of any size by the nearest registered name and what differs."""

import inspect
from collections.abc import Mapping
from typing import Any

from dcnify.models import InternImage
from dcnify.models.intern_image import SIZES

_DEFAULTS = {
    name: parameter.default for name, parameter in inspect.signature(InternImage).parameters.items()
}
_TELLING = ("channels", "depths", "groups")


def nearest_size(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The registered name nearest to an `InternImage` of these arguments, and those that differ.

    That is the published model of the same channels, depths and groups, otherwise the smallest of
    the same operator.
    """
    family = {
        name: {**_DEFAULTS, **sizes}
        for name, sizes in SIZES.items()
        if sizes.get("core_op", "dcnv3") == args["core_op"]
    }
    same = (
        name
        for name, sizes in family.items()
        if all(_plain(sizes[key]) == _plain(args.get(key)) for key in _TELLING)
    )
    name = next(same, next(iter(family)))
    return name, {k: v for k, v in args.items() if _plain(v) != _plain(family[name].get(k))}


def size_of(name: str, argument: str) -> Any:
    """The value of an `InternImage` argument in a registered size."""
    return SIZES[name].get(argument, _DEFAULTS[argument])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
