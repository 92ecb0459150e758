"""Modules that a symbolic trace takes for leaves, as it does those of `torch.nn`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from dcnify.errors import InputError


class Leaf(nn.Module):
    """A module that stays one call in what `torch.fx` traces, so that models trace as before.

    A tracer looks into modules that it does not know; what ours do depends on sizes, which a trace
    does not have.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            cls.forward = _traced_as_leaf(cls.forward)

    def __prepare_scriptable__(self) -> nn.Module:
        raise InputError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.export.export, "
            "torch.compile or torch.jit.trace"
        )


def _traced_as_leaf(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, fx.Proxy):
                tracer: Any = value.tracer
                path = tracer.path_of_module(self)
                if not path:
                    kind = type(self).__name__
                    raise InputError(f"{kind} cannot be traced alone: trace a module that holds it")
                return tracer.create_proxy("call_module", path, args, kwargs)
        return forward(self, *args, **kwargs)

    return call
