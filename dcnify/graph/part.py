"""Parts of a model that are called with a batch of images, where the model itself is not.

A detector is given a list of images of any sizes and returns boxes, as many as it finds. Neither
can be captured or compared; its backbone, a part that is given one batch, can.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dcnify.errors import InputError
from dcnify.graph.calls import evaluating
from dcnify.graph.example import MOST_CHANNELS, Example
from dcnify.words import first_line


def example_for(model: nn.Module, given: Any) -> Example:
    """The example that ``given`` is (see `Example.of`).

    Of a list of images (C, H, W), which are no batch, it is the call of the first module of
    ``model`` that is given a batch.

    Raises:
        InputError: ``given`` is no example, or no module is called with a batch.
    """
    if isinstance(given, list) and _are_images(given):
        given = (given,)  # the only argument
    if not _lists_images(given):
        return Example.of(given)
    args, kwargs = ((), given) if isinstance(given, dict) else (tuple(given), {})
    found = part_called(model, args, kwargs)
    if found is None:
        raise InputError("example: a list of images, and no module of the model is given a batch")
    _check_closed(model, args, kwargs, found.part)
    return found


def part_called(model: nn.Module, args: Any, kwargs: Any) -> Example | None:
    """The call of the first module inside ``model`` that is given one batch of images, if any.

    It holds a tenth of the model's weights at least: neither what normalises the images nor a stem.

    Raises:
        InputError: the model does not run on these arguments before it calls such a module.
    """
    whole = _weights(model)
    large = [(p, m) for p, m in model.named_modules() if p and 10 * _weights(m) >= whole]
    return _first_call(model, args, kwargs, large, MOST_CHANNELS)


def call_of_part(model: nn.Module, example: Example, part: str) -> Example:
    """The first call of the module at ``part`` while ``model`` is called as ``example``.

    Raises:
        InputError: there is no such module, it is not called, or it is not given an image.
    """
    module = replace(example, part=part).called(model)
    called = example.called(model)
    found = _first_call(called, example.args, example.kwargs, [(part, module)])
    if found is None:
        raise InputError(f"{part} is not called with one batch of images (B, C, H, W)")
    _check_closed(called, example.args, example.kwargs, part, module)
    return found


def _check_closed(
    model: nn.Module, args: Any, kwargs: Any, path: str, part: nn.Module | None = None
) -> None:
    """Refuse a part of which the model calls a layer elsewhere too.

    A capture of the part does not see that call; the new layer might be wrong there.
    """
    part = part or model.get_submodule(path)
    running: list[bool] = []
    outside: list[str] = []

    def noted(name: str) -> Any:
        return lambda _module, _args: None if running else outside.append(name)

    hooks = [
        part.register_forward_pre_hook(lambda _module, _args: running.append(True)),
        part.register_forward_hook(lambda _module, _args, _output: running.clear()),
        *(one.register_forward_pre_hook(noted(name)) for name, one in part.named_modules() if name),
    ]
    try:
        with torch.no_grad(), evaluating(model):
            model(*args, **kwargs)
    except Exception:  # of what follows the part; it says what was called until then
        pass
    finally:
        for hook in hooks:
            hook.remove()
    if outside:
        raise InputError(
            f"{path}.{outside[0]} is also called outside {path}: look at a part that holds both "
            "calls, or at the whole model"
        )


class _Stop(Exception):  # not an error
    """Ends a forward pass when what was looked for is known."""


def _first_call(
    model: nn.Module,
    args: Any,
    kwargs: Any,
    modules: list[tuple[str, nn.Module]],
    channels: int | None = None,
) -> Example | None:
    found: list[Example] = []

    def seen(path: str) -> Any:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            try:
                example = Example(args, kwargs, part=path)
            except InputError:
                return
            if len(example.shape) == 4 and example.shape[1] <= (channels or example.shape[1]):
                found.append(example.map(torch.clone))
                raise _Stop

        return hook

    hooks = [
        module.register_forward_pre_hook(seen(path), with_kwargs=True) for path, module in modules
    ]
    try:
        with torch.no_grad(), evaluating(model):
            model(*args, **kwargs)
    except _Stop:
        pass
    except Exception as error:  # whatever a model may raise
        raise InputError(f"the model does not run on the example: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _weights(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _lists_images(given: Any) -> bool:
    """Whether a list of tensors (C, H, W) is among the arguments, and no tensor of four axes."""
    if any(isinstance(one, Tensor) and one.dim() == 4 for one in tree_leaves(given)):
        return False
    values = given.values() if isinstance(given, dict) else given
    return isinstance(given, dict | list | tuple) and any(_are_images(one) for one in values)


def _are_images(held: Any) -> bool:
    return (
        isinstance(held, list | tuple)
        and bool(held)
        and all(isinstance(x, Tensor) and x.is_floating_point() and x.dim() == 3 for x in held)
    )
