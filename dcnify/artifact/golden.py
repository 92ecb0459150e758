"""One input and the model's answer to it, kept with the weights, so that both can be tried again.

The input is noise: it needs no image of anybody's, and suits any number of channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.calls import output_tensor
from dcnify.roles.dcnv3.find import running_here
from dcnify.words import first_line

_LARGEST_TILE = 1 << 20
"""Numbers of the input that are stored; a larger input repeats them."""
_LARGEST_SAMPLE = 1 << 16
"""Numbers of the output that are stored; a larger output is sampled at even distances."""
LARGEST_INPUT = 1 << 28
"""Numbers of an input that is tried at all."""
_SEED = 0


@dataclass(frozen=True)
class Golden:
    """An input and what the model made of it when it was saved."""

    tile: Tensor
    """(1, C, h, w): the input, or what it repeats."""
    sample: Tensor
    """(N,): the output's numbers in order, or N of them at even distances."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    device: str
    """``cpu``, ``cuda``, ...: where the model ran."""

    def input(self) -> Tensor:
        """(1, C, H, W), as the model was given it."""
        repeats = [-(-n // t) for n, t in zip(self.input_shape, self.tile.shape, strict=True)]
        rows, columns = self.input_shape[2:]
        return self.tile.repeat(repeats)[:, :, :rows, :columns].contiguous()

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        return {"input": self.tile, "output": self.sample}

    def about(self) -> dict[str, Any]:
        """What ``config.json`` says of it."""
        return {
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "output_sampled": math.prod(self.output_shape) > len(self.sample),
            "device": self.device,
        }


def golden_of(model: nn.Module, input_shape: tuple[int, ...]) -> Golden | str:
    """Run the model once, in evaluation mode, on noise of ``input_shape`` (B, C, H, W), one image.

    The model, its mode and everybody's random state are as before.

    Returns:
        The pair, or in words why there is none: the model does not run on such an input.
    """
    shape = (1, *input_shape[1:])
    if len(shape) != 4 or math.prod(shape) > LARGEST_INPUT:
        return f"an input of {tuple(input_shape)} is too large to try"
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    channels, rows, columns = shape[1:]
    while channels * rows * columns > _LARGEST_TILE and max(rows, columns) > 1:
        rows, columns = -(-rows // 2), -(-columns // 2)
    generator = torch.Generator().manual_seed(_SEED)
    tile = torch.randn(1, channels, rows, columns, generator=generator).to(like.dtype)
    golden = Golden(tile, torch.empty(0), shape, (), like.device.type)
    try:
        output = answer(model, golden.input().to(like.device))
        if output.is_complex():
            return "the model's output is complex"
        sample = sample_of(output)
    except Exception as error:  # whatever a model may raise; it can be saved all the same
        return f"the model does not run on an input of {shape}: {first_line(error)}"
    return Golden(tile, sample, shape, tuple(output.shape), like.device.type)


def answer(model: nn.Module, image: Tensor) -> Tensor:
    """What the model makes of ``image`` (1, C, H, W) in evaluation mode, as one tensor."""
    training = {module: module.training for module in model.modules()}
    devices = [image.device] if image.is_cuda else []
    model.eval()
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(image.device.type, enabled=False),
            torch.random.fork_rng(devices=devices),
            running_here(model, image),
        ):
            torch.default_generator.manual_seed(_SEED)
            return output_tensor(model(image)).detach()
    finally:
        for module, mode in training.items():
            module.training = mode


def sample_of(output: Tensor) -> Tensor:
    """(N,) of its numbers, on the CPU: all, or as many as are stored."""
    flat = output.flatten().cpu()
    if len(flat) > _LARGEST_SAMPLE:
        flat = flat[torch.arange(_LARGEST_SAMPLE) * len(flat) // _LARGEST_SAMPLE]
    return flat.clone()


def read_golden(tensors: Mapping[str, Tensor], about: Mapping[str, Any], what: str) -> Golden:
    """Inverse of `Golden.tensors` and `Golden.about`, for files that a stranger may have written.

    Raises:
        InputError: they do not make a pair.
    """
    tile, sample = tensors.get("input"), tensors.get("output")
    shapes = about.get("input_shape"), about.get("output_shape")
    whole = isinstance(tile, Tensor) and isinstance(sample, Tensor)
    whole = whole and tile.is_floating_point() and tile.dim() == 4 and sample.dim() == 1
    whole = whole and all(_is_shape(shape) for shape in shapes) and len(shapes[0]) == 4
    whole = whole and shapes[0][:2] == list(tile.shape[:2]) and tile.numel() > 0
    whole = whole and math.prod(shapes[0]) <= LARGEST_INPUT
    if not whole:
        raise InputError(f"{what}: its golden output is damaged")
    return Golden(tile, sample, tuple(shapes[0]), tuple(shapes[1]), str(about.get("device")))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
