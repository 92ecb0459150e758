"""How much each place of a layer's output matters to what the model returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import first_tensor, output_tensor
from dcnify.graph.example import Example
from dcnify.inherit.precision import in_float32, wide


def sensitivities(
    model: nn.Module, examples: Sequence[Example], layers: Iterable[str], seed: int = 0
) -> dict[str, list[Tensor]]:
    """How much a small error at each place changes the output of ``model``, per image.

    That is the square of the gradient of a random signed sum of the outputs, averaged over
    channels. Where the output is read from some places alone, from a class token for one, errors
    at the others do not count. Each image has the same weight in all: weighed by how sure the
    model is of it, a few images would decide everything.

    Args:
        model: in eval mode.
        examples: calls of the model.
        layers: paths of linear layers and convolutions, each called once.
        seed: of the signs.

    Returns:
        By path and for each example (B, places), of mean 1; nothing if the model does not give
        gradients.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {path: [] for path in layers}
    try:
        with in_float32(model), torch.enable_grad():
            for example in examples:
                for path, one in _of_example(model, example.map(wide), found, generator).items():
                    found[path].append(one)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):  # of autograd
        return {}
    return found


def _of_example(
    model: nn.Module, example: Example, paths: Iterable[str], generator: torch.Generator
) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path in paths:
            hooks.callback(_keep(model.get_submodule(path), path, outputs).remove)
        answer = output_tensor(example.call(model))
    signs = torch.randint(2, answer.shape, generator=generator).mul(2).sub(1)
    score = (answer.float() * signs.to(answer.device)).sum()
    gradients = torch.autograd.grad(score, list(outputs.values()), allow_unused=True)
    return {
        path: _by_place(
            torch.zeros_like(output) if gradient is None else gradient,
            1 if isinstance(model.get_submodule(path), nn.Conv2d) else -1,
        )
        for (path, output), gradient in zip(outputs.items(), gradients, strict=True)
    }


def _keep(layer: nn.Module, path: str, outputs: dict[str, Tensor]) -> Any:
    def hook(_module: nn.Module, _args: tuple, output: Any) -> None:
        tensor = first_tensor(output)
        if not tensor.requires_grad:
            tensor.requires_grad_()
        outputs.setdefault(path, tensor)

    return layer.register_forward_hook(hook)


def _by_place(gradient: Tensor, channels: int) -> Tensor:
    each = gradient.detach().float().square().mean(channels).flatten(1)
    return each / each.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
