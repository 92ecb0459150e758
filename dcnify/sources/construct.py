"""Construct a model for its structure: names and shapes now, the values of the weights later.

`on_meta` allocates nothing, so numbers from a stranger's file can be tried safely. `with_buffers`
computes buffers for real, because what a constructor computes (rope tables, relative position
indices) is in no state dict and must not be lost; weights stay untouched, hence unpaged, memory.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

Watch = Callable[[nn.Module, str, nn.Parameter], None]

_INIT = {
    *(getattr(Tensor, f"{name}_") for name in ("uniform", "normal", "fill", "zero", "erfinv")),
    *(getattr(Tensor, f"{name}_") for name in ("mul", "add", "div", "clamp")),
    *(getattr(nn.init, f"{name}_") for name in ("trunc_normal", "normal", "uniform", "constant")),
    *(getattr(nn.init, f"{a}_{b}_") for a in ("kaiming", "xavier") for b in ("uniform", "normal")),
}


class _NoInit(TorchFunctionMode):
    """Skip the initialisation of weights, most of the cost of a build, as they are replaced.

    ``linspace`` stays on the CPU: older timm reads the rates of stochastic depth off it.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace and "device" not in kwargs:
            kwargs["device"] = "cpu"
        if func in _INIT:
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, nn.Parameter) or (isinstance(target, Tensor) and target.is_meta):
                return target
        return func(*args, **kwargs)


def on_meta(build: Callable[[], nn.Module], watch: Watch | None = None) -> nn.Module:
    """Run ``build`` so that every tensor it makes is on the meta device.

    ``watch`` is called with each parameter as it is registered; it may raise to give up early.
    """
    with torch.device("meta"), _NoInit(), _watching(watch):
        return build()


def with_buffers(build: Callable[[], nn.Module], *, skip_init: bool) -> nn.Module:
    """Run ``build`` on the CPU; the global random state is as before afterwards.

    ``skip_init`` leaves parameters uninitialised, for constructors that are known not to read their
    own weights.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        if not skip_init:
            return build()
        with _NoInit():
            return build()


def at_most(count: int) -> Watch:
    """A watch that aborts a build with `OverflowError` after more than ``count`` parameters."""
    seen = 0

    def watch(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal seen
        seen += 1
        if seen > count:
            raise OverflowError(f"more than {count} parameters")

    return watch


@contextmanager
def _watching(watch: Watch | None) -> Iterator[None]:
    if watch is None:
        yield
        return
    owner = threading.get_ident()

    def hook(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == owner:
            watch(module, name, parameter)

    handle = register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()
