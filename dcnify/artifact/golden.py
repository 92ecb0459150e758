"""Golden output: one call of the model and its output, stored with the weights to verify them.

The image is noise: no photograph has to be shipped, and any number of channels will do. Other
inputs, time steps or texts for instance, are the ones of the example that the model was converted
with.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dcnify.errors import InputError
from dcnify.graph.calls import evaluating, like_of, output_tensor
from dcnify.graph.example import Example
from dcnify.surgery.prepare import runnable
from dcnify.words import first_line

_LARGEST_TILE = 1 << 20
"""Numbers of the input that are stored; a larger input repeats them."""
_LARGEST_SAMPLE = 1 << 16
"""Numbers of the output that are stored; a larger output is sampled at even distances."""
LARGEST_INPUT = 1 << 28
"""Numbers of an input that is tried at all."""
_MOST_BYTES = 1 << 25
"""Bytes of the inputs beside the image that are stored."""
_LARGEST_BATCH = 1 << 16
_SEED = 0


@dataclass(frozen=True)
class Golden:
    """A call of the model, and its output when it was saved."""

    tile: Tensor
    """(1, C, h, w): the image, or what it repeats."""
    sample: Tensor
    """(N,): the output's numbers in order, or N of them at even distances."""
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    device: str
    """``cpu``, ``cuda``, ...: where the model ran."""
    call: Example | None = None
    """How the model is called, with a batch of tiles as its images; None for an image alone."""

    def input(self) -> Tensor:
        """The image (1, C, H, W), as the model was given it."""
        repeats = [-(-n // t) for n, t in zip(self.input_shape, self.tile.shape, strict=True)]
        rows, columns = self.input_shape[2:]
        return self.tile.repeat(repeats)[:, :, :rows, :columns].contiguous()

    def example(self) -> Example:
        """The call, as it was made: with one image, and the first row of the other inputs."""
        return self.call.with_image(self.input()) if self.call else Example.of(self.input())

    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors by name."""
        return {"input": self.tile, "output": self.sample, **self._packed[1]}

    def about(self) -> dict[str, Any]:
        """The entry in ``config.json``."""
        return {
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "output_sampled": math.prod(self.output_shape) > len(self.sample),
            "device": self.device,
            **self._packed[0],
        }

    @cached_property
    def _packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The call as JSON-ready data, and the tensors that it refers to by name."""
        call = self.call
        tensors: dict[str, Tensor] = {}
        if call is None:
            return {}, {}

        def stored(value: Any) -> dict[str, str]:
            if not isinstance(value, Tensor):
                raise InputError(f"an argument of type {type(value).__name__} cannot be stored")
            name = f"input.{len(tensors)}"
            if value is not call.images:
                tensors[name] = value.detach().contiguous()
            return {"tensor": name if name in tensors else "input"}

        data = {**vars(call), "args": list(call.args)}
        if not call.part:
            del data["part"]
        about = json.loads(json.dumps({"call": data}, default=stored))
        about["batch"] = len(call.images)
        if sum(one.nbytes for one in tensors.values()) > _MOST_BYTES:
            raise InputError("the inputs beside the image are too large to store")
        return about, tensors


def golden_of(model: nn.Module, example: Any) -> Golden | str:
    """Call the model once, in evaluation mode, with one image of noise.

    The model, its mode and the random state are as before. ``example`` is the shape (B, C, H, W) of
    the image, or an example whose other inputs are kept. Return the reason if there is no output.
    """
    given = None if _is_shape(example) else Example.of(example)
    shape = (1, *(given.shape if given else example)[1:])
    if len(shape) != 4 or math.prod(shape) > LARGEST_INPUT:
        return f"an input of {shape} is too large to try"
    like = like_of(model)
    channels, rows, columns = shape[1:]
    while channels * rows * columns > _LARGEST_TILE and max(rows, columns) > 1:
        rows, columns = -(-rows // 2), -(-columns // 2)
    generator = torch.Generator().manual_seed(_SEED)
    tile = torch.randn(1, channels, rows, columns, generator=generator).to(like.dtype)
    try:
        golden = Golden(tile, torch.empty(0), shape, (), like.device.type)
        if given and not given.is_image_alone:
            golden = _with_call(golden, given.to("cpu"))
        output = answer(model, golden.example().to(like.device))
        if output.is_complex():
            return "the model's output is complex"
        return replace(golden, sample=sample_of(output), output_shape=tuple(output.shape))
    except Exception as error:  # whatever a model may raise; it can be saved all the same
        return f"the model does not run on an input of {shape}: {first_line(error)}"


def _with_call(golden: Golden, given: Example) -> Golden:
    """Add how the model is called, with its whole batch of other inputs or else one row of them.

    Raises:
        InputError: they cannot be stored.
    """
    error: InputError | None = None
    for batch in (len(given.images), 1):
        tiles = golden.tile.expand(batch, -1, -1, -1)
        made = replace(golden, call=given.with_image(tiles))
        try:
            made.tensors()
        except InputError as problem:
            error = problem
        else:
            return made
    raise error or InputError("the inputs beside the image cannot be stored")


def answer(model: nn.Module, example: Any) -> Tensor:
    """Return the model's output for ``example`` in evaluation mode, as one tensor."""
    example = Example.of(example)
    device = example.images.device
    with (
        evaluating(model),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        runnable(model, example),
    ):
        torch.default_generator.manual_seed(_SEED)
        return output_tensor(example.call(model)).detach()


def sample_of(output: Tensor) -> Tensor:
    """(N,) of its numbers, on the CPU: all, or as many as are stored."""
    flat = output.flatten().cpu()
    if len(flat) > _LARGEST_SAMPLE:
        flat = flat[torch.arange(_LARGEST_SAMPLE) * len(flat) // _LARGEST_SAMPLE]
    return flat.clone()


def read_golden(tensors: Mapping[str, Tensor], about: Mapping[str, Any], what: str) -> Golden:
    """Inverse of `Golden.tensors` and `Golden.about`, for files that a stranger may have made."""
    tile, sample = tensors.get("input"), tensors.get("output")
    shape: Any = about.get("input_shape")
    output_shape: Any = about.get("output_shape")
    if not (
        isinstance(tile, Tensor)
        and isinstance(sample, Tensor)
        and tile.is_floating_point()
        and (tile.dim(), sample.dim()) == (4, 1)
        and _is_shape(shape)
        and _is_shape(output_shape)
        and len(shape) == 4
        and list(shape[:2]) == list(tile.shape[:2])
        and tile.numel() > 0
        and math.prod(shape) <= LARGEST_INPUT
    ):
        raise InputError(f"{what}: its golden output is damaged")
    batch: Any = about.get("batch", 1)
    if type(batch) is not int or not 0 < batch <= _LARGEST_BATCH:
        raise InputError(f"{what}: its golden output is damaged (batch {str(batch)[:20]})")
    try:
        held = {**tensors, "input": tile.expand(batch, -1, -1, -1)}
        call = Example(**_with_tensors(about["call"], held)) if "call" in about else None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: its golden output is damaged ({first_line(error)})") from None
    return Golden(tile, sample, tuple(shape), tuple(output_shape), str(about.get("device")), call)


def _with_tensors(call: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The stored call with its tensors in place of their names."""

    def is_name(data: Any) -> bool:
        named = isinstance(data, dict) and data.keys() == {"tensor"}
        return named and isinstance(data["tensor"], str)

    def value(data: Any) -> Any:
        return tensors[data["tensor"]] if is_name(data) else data

    return tree_map(value, call, is_leaf=is_name)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(type(n) is int and n >= 0 for n in value)
