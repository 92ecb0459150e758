"""The arguments of a call as JSON and named tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dcnify.errors import InputError
from dcnify.graph.example import Example

_MOST_BYTES = 1 << 25
"""Bytes of the inputs beside the image that are stored."""


def pack_call(example: Example) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the call as JSON-ready data, and the tensors that it refers to, but for the image.

    Raises:
        InputError: an argument is not made of tensors, plain values, lists and dicts, or the
            tensors are too large.
    """
    tensors: dict[str, Tensor] = {}

    def packed(name: str, value: Any) -> Any:
        if value is example.images:
            return {"tensor": "input"}
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        if type(value) in (tuple, list):
            items = [packed(f"{name}.{index}", item) for index, item in enumerate(value)]
            return {type(value).__name__: items}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: packed(f"{name}.{key}", item) for key, item in value.items()}}
        raise InputError(f"an argument of type {type(value).__name__} cannot be stored")

    call = {
        "args": [packed(f"args.{index}", value) for index, value in enumerate(example.args)],
        "kwargs": {key: packed(f"kwargs.{key}", value) for key, value in example.kwargs.items()},
        "image": example.image,
        "batch_axis": example.batch_axis,
    }
    if sum(one.nbytes for one in tensors.values()) > _MOST_BYTES:
        raise InputError("the inputs beside the image are too large to store")
    return call, tensors


def unpack_call(call: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Tensor) -> Example:
    """Inverse of `pack_call`, for data that a stranger may have written.

    Raises:
        InputError, KeyError, TypeError, ValueError, AttributeError, RecursionError: it is not a
            call.
    """

    def unpacked(data: Mapping[str, Any]) -> Any:
        ((kind, value),) = data.items()
        if kind == "tensor":
            return image if value == "input" else tensors[value]
        if kind == "dict":
            return {str(key): unpacked(item) for key, item in value.items()}
        if kind in ("tuple", "list"):
            items = [unpacked(item) for item in value]
            return tuple(items) if kind == "tuple" else items
        if kind == "value" and (value is None or isinstance(value, bool | int | float | str)):
            return value
        raise InputError(f"an argument of kind {kind!r}")

    args = tuple(unpacked(value) for value in call["args"])
    kwargs = {key: unpacked(value) for key, value in call["kwargs"].items()}
    axis = call["batch_axis"]
    if type(axis) is not int or axis < 0:
        raise InputError(f"batch_axis is {axis!r}")
    return Example(args, kwargs, image=call["image"], batch_axis=axis)
