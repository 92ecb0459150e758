"""The shape of a call: how Python called a module while it was captured, without the tensors."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Argument:
    """One argument of a call."""

    name: str
    """Of the parameter; ``argument 2`` where there is no parameter at that position."""
    value: Any = None
    """A plain value: a flag, a number, a text, or a tuple of numbers; None of anything else."""
    shape: tuple[int, ...] | None = None
    """Of a tensor; None of anything else."""
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class CallShape:
    """How Python called a module once.

    ``returns`` is ``tensor``, ``tuple[n]`` for a tuple of ``n`` whose first item is a tensor, or
    another type's name.
    """

    returns: str
    arguments: tuple[Argument, ...] = ()
    parameters: tuple[str, ...] = ()
    """Names of the parameters that can be given by position, in order."""

    @property
    def tensors(self) -> tuple[Argument, ...]:
        """The arguments that are tensors."""
        return tuple(one for one in self.arguments if one.shape is not None)

    @property
    def masks(self) -> tuple[Argument, ...]:
        """The tensors that are masks, by name or type."""
        return tuple(a for a in self.tensors if "mask" in a.name or a.dtype == torch.bool)

    @property
    def causal(self) -> bool:
        """Whether causality was asked for."""
        return any(a.value is True and "causal" in a.name for a in self.arguments)


def record_shapes(module: nn.Module, seen: list[CallShape]) -> None:
    """Add the shape of every call of ``module`` to ``seen``."""
    parameters = _positional(module)

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        count = len(parameters)
        names = [parameters[i] if i < count else f"argument {i}" for i in range(len(args))]
        given = [*zip(names, args, strict=True), *kwargs.items()]
        arguments = tuple(_argument(name, value) for name, value in given)
        seen.append(CallShape(_returns(output), arguments, parameters))

    module.register_forward_hook(hook, with_kwargs=True)


def _positional(module: nn.Module) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(one.name for one in parameters if one.kind in kinds)


def _argument(name: str, value: Any) -> Argument:
    if isinstance(value, Tensor):
        return Argument(name, shape=tuple(int(n) for n in value.shape), dtype=value.dtype)
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        return Argument(name, tuple(value))
    return Argument(name, value if isinstance(value, bool | int | float | str) else None)


def _returns(output: Any) -> str:
    if isinstance(output, Tensor):
        return "tensor"
    if type(output) is tuple and output and isinstance(output[0], Tensor):
        rest_is_optional = all(o is None or isinstance(o, Tensor) for o in output[1:])
        return f"tuple[{len(output)}]" if rest_is_optional else "tuple with non-tensor items"
    return type(output).__name__
