"""The options that say where a model comes from, and the one way to open it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcnify.errors import InputError

if TYPE_CHECKING:
    import torch

    from dcnify.artifact import Source
    from dcnify.data import ImageBatch

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="timm:NAME, a checkpoint (.pt .pth .tar .safetensors), an artifact folder, "
        "or python:package.module:factory.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(help="The timm architecture, if the checkpoint names none.", show_default=False),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="An argument of the model's constructor, such as depths=[2,2,6,2] or num_classes=10. "
        "May be given more than once.",
        show_default=False,
    ),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="timm: with weights from the hub.")]
UseEma = Annotated[
    bool, typer.Option("--use-ema", help="Checkpoint: the averaged weights, not the last.")
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Unpickle a file that may run code. Yours only.")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Import the Python code that an artifact names.")
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        metavar="SIZE",
        help="Image size: 224, 224x320 (HxW) or 3x224x320. The model's own by default.",
        show_default=False,
    ),
]


def open_model(
    spec: str,
    *,
    arch: str | None = None,
    model_args: list[str] | None = None,
    pretrained: bool = False,
    use_ema: bool = False,
    trust_pickle: bool = False,
    trust_code: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Source:
    """Open a SOURCE with the options of the command line."""
    from dcnify.artifact import open_source

    return open_source(
        spec,
        arch=arch,
        model_args=parse_model_args(model_args or []),
        pretrained=pretrained,
        use_ema=use_ema,
        trust_pickle=trust_pickle,
        trust_code=trust_code,
        on_progress=on_progress,
    )


def parse_model_args(given: list[str]) -> dict[str, Any]:
    """``["depths=[2,2]", "act=gelu"]`` to ``{"depths": [2, 2], "act": "gelu"}``.

    Raises:
        InputError: an item is not KEY=VALUE.
    """
    parsed: dict[str, Any] = {}
    for item in given:
        key, equals, text = item.partition("=")
        if not equals or not key.strip().isidentifier():
            raise InputError(f"--model-arg {item}: expected KEY=VALUE, such as num_classes=10")
        parsed[key.strip()] = _value(text.strip())
    return parsed


def _value(text: str) -> Any:
    words = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        return text


def example_input(
    source: Source, size: str | None, recipe_input: tuple[int, ...] | None = None
) -> torch.Tensor:
    """A (1, C, H, W) input: --input-size, else the recipe's, else the model's own.

    Raises:
        InputError: the size cannot be read.
    """
    import torch

    own = tuple(source.input_size or (3, 224, 224))
    shape = _size(size, own[0]) if size else tuple(recipe_input or own)
    parameter = next(source.model.parameters(), None)
    dtype = parameter.dtype if parameter is not None else torch.float32
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *shape, generator=generator).to(dtype)


def _size(text: str, channels: int) -> tuple[int, int, int]:
    try:
        numbers = [int(part) for part in text.lower().replace(",", "x").split("x")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or min(numbers, default=0) < 1 or max(numbers) > 1 << 14:
        raise InputError(f"--input-size {text}: expected 224, 224x320 (HxW) or 3x224x320")
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return channels, numbers[0], numbers[-1]


def fidelity_images(
    folder: Path | None, source: Source, shape: tuple[int, ...], count: int | None
) -> ImageBatch | None:
    """What --images and --image-count ask for; None leaves the choice to the conversion.

    Raises:
        InputError: there is no image that can be read.
    """
    if folder is None and count is None:
        return None
    from dcnify.data import load_images

    mean, std = source.mean or (0.485, 0.456, 0.406), source.std or (0.229, 0.224, 0.225)
    return load_images(folder, count=count or 16, size=tuple(shape[1:]), mean=mean, std=std)
