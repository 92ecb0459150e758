"""Build replacement modules from their specs, and put them into a live model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dcnify.errors import InputError
from dcnify.roles.base import replacement_named
from dcnify.surgery.plan import ModuleSpec, PlannedSwap
from dcnify.words import first_line

_MAX_SIZE = 1 << 20
_FILLS = {
    *(nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_),
    *(Tensor.uniform_, Tensor.normal_, Tensor.zero_, Tensor.fill_),
}


def build(spec: ModuleSpec, *, original: nn.Module | None = None) -> nn.Module:
    """The replacement on the meta device: structure without memory.

    Raises:
        InputError: the spec names no adapter, or its arguments do not make one.
    """
    replacement = replacement_named(spec.type)
    _check_sizes(spec.args)
    extra = {"original": original} if replacement.takes_original else {}
    try:
        with torch.device("meta"), _Unwritten():
            module = replacement.module(**spec.args, **extra)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(f"plan: cannot build a {spec.type!r} module: {reason}") from error
    carry_settings(original, module)
    return module


class _Unwritten(TorchFunctionMode):
    """Leaves out what would fill tensors on the meta device, which takes half the time there."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FILLS:
            tensor = args[0] if args else (kwargs or {})["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))


def carry_settings(original: nn.Module | None, module: nn.Module) -> None:
    """Let callers that read a plain setting of the old layer, its resolution say, find it."""
    for name, value in vars(original).items() if original is not None else ():
        plain = isinstance(value, bool | int | float | str | tuple)
        if plain and not name.startswith("_") and not hasattr(module, name):
            setattr(module, name, value)


def _check_sizes(args: Any) -> None:
    """No number of a plan may be absurd: files come from strangers."""
    if isinstance(args, dict):
        args = list(args.values())
    if isinstance(args, list):
        for item in args:
            _check_sizes(item)
    elif isinstance(args, int | float) and not abs(args) <= _MAX_SIZE:
        raise InputError(f"plan: {args} is not a plausible size")


def put(model: nn.Module, swap: PlannedSwap, module: nn.Module) -> None:
    """Put ``module`` at the swap's site, and at every alias: tied modules stay tied.

    Raises:
        InputError: the model has no module there.
    """
    for path in (swap.site.path, *swap.site.aliases):
        put_at(model, path, module)


def put_at(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put ``module`` in the place of the one at ``path``.

    Raises:
        InputError: the model has no module there.
    """
    parent_path, _, name = path.rpartition(".")
    parent = get(model, parent_path)
    if name not in parent._modules:
        raise InputError(f"plan: the model has no module {path!r}")
    parent._modules[name] = module


def get(model: nn.Module, path: str) -> nn.Module:
    """The module at ``path``.

    Raises:
        InputError: the model has no module there.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise InputError(f"plan: the model has no module {path!r}") from None
