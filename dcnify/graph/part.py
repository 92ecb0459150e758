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
    return found


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
