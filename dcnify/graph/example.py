"""Example: what one call of a model is given, and which tensor of it is the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from dcnify.errors import InputError
from dcnify.words import did_you_mean

MOST_CHANNELS = 4
"""Channels of an image, or of the latent image of a diffusion model."""


@dataclass(frozen=True, eq=False)
class Example:
    """The arguments of one call of a model.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        image: which argument is the image (B, C, H, W): its index in ``args`` or its keyword; of
            one inside a dict, list or tuple the whole way, as in ``"0.pixels"``. By default the
            only tensor; of several the only one with four axes, or the only one of those with at
            most four channels.
        batch_axis: axis along which the other tensors hold the batch. The image's is axis 0.
        part: path of the module that is called in this way; the model itself by default. Sites
            are looked for in it alone, and its output is what is compared, timed and stored.

    Raises:
        InputError: no argument is the image, or several may be; or ``batch_axis`` is negative.
    """

    args: tuple = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image: int | str = dataclasses.field(default=None)  # type: ignore[assignment]  # never None once made
    batch_axis: int = 0
    part: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", tuple(self.args))
        object.__setattr__(self, "kwargs", dict(self.kwargs))
        if type(self.batch_axis) is not int or self.batch_axis < 0:
            raise InputError(f"example: batch_axis={self.batch_axis!r} is not an axis: 0, 1, ...")
        named = self._named()
        if self.image is None:
            object.__setattr__(self, "image", _inferred(named))
        elif not isinstance(named.get(self.image), Tensor):
            raise InputError(
                f"example: image={self.image!r} does not name a tensor; "
                f"the arguments are {self.describe()}"
            )

    @classmethod
    def of(cls, given: Any) -> Example:
        """An example from a tensor, a tuple of arguments, a dict of keywords, or an `Example`.

        Raises:
            InputError: it is something else, or which tensor is the image cannot be told.
        """
        if isinstance(given, Example):
            return given
        if isinstance(given, Tensor):
            return cls((given,))
        if isinstance(given, tuple | list):
            return cls(tuple(given))
        if isinstance(given, Mapping) and all(isinstance(key, str) for key in given):
            return cls(kwargs=given)
        raise InputError(
            f"the example is of type {type(given).__name__}; expected a tensor (B, C, H, W), a "
            "tuple of arguments, a dict of keyword arguments, or a dcnify.Example"
        )

    @property
    def images(self) -> Tensor:
        """The image argument, (B, C, H, W)."""
        return self._named()[self.image]

    @property
    def shape(self) -> tuple[int, ...]:
        """The image's shape."""
        return tuple(self.images.shape)

    @property
    def image_leaf(self) -> int:
        """Position of the image among the flattened arguments, as `torch.export` counts them."""
        leaves = tree_leaves((self.args, self.kwargs))
        return next(i for i, leaf in enumerate(leaves) if leaf is self.images)

    @property
    def is_image_alone(self) -> bool:
        """Whether the model itself is called with the image as its only argument, by position."""
        return not self.kwargs and not self.part and len(self.args) == 1 and self.image == 0

    @property
    def other_inputs(self) -> dict[str, Any]:
        """The shapes of all arguments but the image, as `shapes` gives them."""
        return {key: shape for key, shape in self.shapes().items() if key != str(self.image)}

    def with_image(self, images: Tensor) -> Example:
        """The same call for other images.

        Every other tensor that has this example's batch size along ``batch_axis`` is repeated, or
        cut, to the size of the new batch.
        """
        before, now, axis = len(self.images), len(images), self.batch_axis

        def fitted(tensor: Tensor) -> Tensor:
            if tensor is self.images:
                return images
            if before == now or tensor.dim() <= axis or tensor.shape[axis] != before:
                return tensor
            return tensor.index_select(axis, torch.arange(now, device=tensor.device) % before)

        return self.map(fitted)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Example:
        """The same call on ``device``, with floating-point tensors in ``dtype``."""
        return self.map(lambda one: one.to(device, dtype if one.is_floating_point() else None))

    def map(self, change: Callable[[Tensor], Tensor]) -> Example:
        """The same call with every tensor replaced by ``change`` of it."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, self.kwargs))
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def call(self, model: nn.Module) -> Any:
        """Call ``model``, or the part of it, with these arguments.

        Raises:
            InputError: there is no such part.
        """
        return self.called(model)(*self.args, **self.kwargs)

    def called(self, model: nn.Module) -> nn.Module:
        """The module that is called: ``part`` of ``model``, or the model.

        Raises:
            InputError: there is no such part.
        """
        try:
            return model.get_submodule(self.part)
        except AttributeError:
            paths = [path for path, _module in model.named_modules() if path]
            near = did_you_mean(self.part, paths)
            raise InputError(f"the model has no part {self.part!r}{near}") from None

    def shapes(self) -> dict[str, Any]:
        """JSON-ready: by argument its shape, or a plain value itself, or the name of its type.

        An argument that holds others is listed by what it holds: ``0.pixels``.
        """
        return {str(key): _plain(value) for key, value in self._named().items()}

    def describe(self) -> str:
        """The arguments in words: ``1x3x32x32, timestep=1``; an image alone as ``1x3x32x32``."""
        parts = []
        for key, value in self.shapes().items():
            text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append((text or "scalar") if key.isdigit() else f"{key}={text or 'scalar'}")
        shown = ", ".join(parts) or "none"
        return f"{shown} (given to {self.part})" if self.part else shown

    def _named(self) -> dict[int | str, Any]:
        named: dict[int | str, Any] = {}
        arguments: dict[int | str, Any] = dict(enumerate(self.args))
        arguments.update(self.kwargs)
        for key, value in arguments.items():
            named |= _flat(key, value)
        return named


def example_with(images: Tensor, like: Example | None) -> Example:
    """Return the call ``like`` for other images, in their dtype and on their device.

    Without ``like`` it is a call with the images alone.
    """
    if like is None:
        return Example.of(images)
    return like.to(images.device, images.dtype).with_image(images)


def _flat(key: int | str, value: Any) -> dict[int | str, Any]:
    """The value under its name, or what a dict, list or tuple holds, each under its own."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    else:
        return {key: value}
    return {k: v for name, one in items for k, v in _flat(f"{key}.{name}", one).items()}


def _inferred(named: Mapping[int | str, Any]) -> int | str:
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    images = {
        key: value
        for key, value in tensors.items()
        if value.is_floating_point() and value.dim() == 4
    }
    small = {key: value for key, value in images.items() if value.shape[1] <= MOST_CHANNELS}
    for candidates in (tensors, images, small):
        if len(candidates) == 1:
            return next(iter(candidates))
    if not tensors:
        raise InputError("example: there is no tensor among the arguments")
    shown = small or images or tensors
    found = ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in shown.items())
    problem = "several arguments may be the image" if images else "no argument is an image"
    raise InputError(
        f"example: {problem} ({found}); "
        f"name it: dcnify.Example(args, kwargs, image={next(iter(shown))!r})"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return list(value.shape)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return type(value).__name__
