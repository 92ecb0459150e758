"""Calls of modules: their arguments, and the tensors in whatever they return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from dcnify.errors import DcnifyError


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call of a layer, as its caller passed them."""

    args: tuple = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, given: Call | Tensor) -> Call:
        """A call, or the one of a layer that takes a single tensor."""
        return given if isinstance(given, Call) else cls((given,))

    @property
    def input(self) -> Tensor:
        """The features that the layer works on: the first floating-point tensor passed."""
        return first_tensor((self.args, self.kwargs))

    def on(self, layer: Callable[..., Any]) -> Tensor:
        """Call ``layer`` in this way; return the first tensor of what it returns."""
        return first_tensor(layer(*self.args, **self.kwargs))

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with every tensor replaced by ``change`` of it."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return Call(args, kwargs)

    def first(self, count: int) -> Call:
        """The same call with the first ``count`` rows of every tensor of the input's batch size."""
        size = len(self.input)
        return self.map(lambda one: one[:count] if one.dim() and len(one) == size else one)


@dataclass(frozen=True, eq=False)
class RecordedCall(Call):
    """A call, and the first tensor that the layer returned."""

    output: Tensor = dataclasses.field(kw_only=True)


def record_calls(
    layer: nn.Module,
    path: str,
    calls: dict[str, RecordedCall],
    when: Callable[[], bool] = lambda: True,
) -> RemovableHandle:
    """Keep the last call of ``layer`` in ``calls`` under ``path``; return the hook's handle.

    ``when`` is asked at each call whether to record.
    """

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if when():
            # Clones, because the model may go on in place.
            given = Call(args, kwargs)
            given = given if torch.is_grad_enabled() else given.map(torch.clone)
            output = first_tensor(output).clone()
            calls[path] = RecordedCall(given.args, given.kwargs, output=output)

    return layer.register_forward_hook(hook, with_kwargs=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[dict[nn.Module, bool]]:
    """Put the model into eval mode for a while, and back module by module.

    Yields the mode that each module had.
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield training
    finally:
        for module, mode in training.items():
            module.training = mode


def like_of(model: nn.Module) -> Tensor:
    """The first floating-point parameter, for its dtype and device; an empty tensor without one."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors_in(item)
    elif isinstance(output, tuple | list):
        for item in output:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from tensors_in(getattr(output, field.name))


def first_tensor(output: Any) -> Tensor:
    """The first floating-point tensor of a layer's output, however it is nested."""
    for tensor in tensors_in(output):
        if tensor.is_floating_point():
            return tensor
    raise DcnifyError(f"no floating-point tensor in an output of type {type(output).__name__}")


def output_tensor(output: Any) -> Tensor:
    """The tensor by which two outputs of a model are compared, the same one everywhere.

    A tensor is itself; of several, ``logits`` counts if there is one of that name. Otherwise all
    floating-point tensors with a batch axis are put side by side as (B, 1, numbers), feature
    maps for instance. Where their batch sizes differ, the first one is taken.

    Raises:
        DcnifyError: there is no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    tensors = [one for one in tensors_in(output) if one.is_floating_point() and one.dim() > 1]
    if not tensors:
        raise DcnifyError(f"cannot compare outputs of type {type(output).__name__}")
    if len(tensors) == 1 or any(len(one) != len(tensors[0]) for one in tensors):
        return tensors[0]
    return torch.cat([one.flatten(1) for one in tensors], 1)[:, None]
