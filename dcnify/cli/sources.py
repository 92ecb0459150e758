"""The options that say where a model comes from, and the one way to open it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


_LARGEST = 1 << 14
"""Of an image's rows, columns or channels."""


@dataclass(frozen=True)
class Given:
    """A SOURCE with its options, as the person gave them. `takes_source` hands it to a verb."""

    source: SourceName
    arch: Arch = None
    model_arg: ModelArgs = None
    pretrained: Pretrained = False
    use_ema: UseEma = False
    trust_pickle: TrustPickle = False
    trust_code: TrustCode = False
    input_size: InputSize = None

    def open(self, step: Callable[[str, int, int], None]) -> Source:
        """Open it; ``step`` shows which architectures are tried."""
        from dcnify.artifact import open_source

        return open_source(
            self.source,
            arch=self.arch,
            model_args=parse_model_args(self.model_arg or []),
            pretrained=self.pretrained,
            use_ema=self.use_ema,
            trust_pickle=self.trust_pickle,
            trust_code=self.trust_code,
            on_progress=step,
        )

    def example(self, opened: Source, recipe_input: tuple[int, ...] | None = None) -> torch.Tensor:
        """A (1, C, H, W) input: --input-size, else the recipe's, else the model's own.

        Raises:
            InputError: the size cannot be read.
        """
        import torch

        own = tuple(opened.input_size or (3, 224, 224))
        shape = parse_size(self.input_size, own[0]) or tuple(recipe_input or own)
        if max(shape) > _LARGEST:
            raise InputError(f"an input of {shape} is beyond {_LARGEST} in size")
        parameter = next(opened.model.parameters(), None)
        dtype = parameter.dtype if parameter is not None else torch.float32
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, *shape, generator=generator).to(dtype)


def takes_source(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the argument SOURCE and its options; it receives them as one `Given`, first."""
    first, *own = inspect.signature(verb, eval_str=True).parameters.values()
    source, *options = inspect.signature(Given, eval_str=True).parameters.values()
    assert first.annotation is Given

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        given = Given(**{p.name: values.pop(p.name) for p in (source, *options)})
        verb(given, **values)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (source, *own, *options)
    ]
    del run.__wrapped__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def need_source(against: str | None, options: Mapping[str, Any]) -> None:
    """
    Raises:
        InputError: an option that is about the model of --against is given, and that is not.
    """
    for option, value in options.items():
        if value and against is None:
            raise InputError(f"{option} needs --against SOURCE, the model to compare with")


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


def parse_size(text: str | None, channels: int) -> tuple[int, int, int] | None:
    """(C, H, W) of --input-size; None where it is not given.

    Raises:
        InputError: the size cannot be read.
    """
    if not text:
        return None
    try:
        numbers = [int(part) for part in text.lower().replace(",", "x").split("x")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3 or min(numbers, default=0) < 1 or max(numbers) > _LARGEST:
        raise InputError(f"--input-size {text}: expected 224, 224x320 (HxW) or 3x224x320")
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return channels, numbers[0], numbers[-1]


def fidelity_images(
    where: str | None,
    source: Source,
    shape: tuple[int, ...],
    count: int | None,
    *,
    split: str | None = None,
    data_dir: Path | None = None,
    called: str = "images",
    step: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> ImageBatch | None:
    """What --images, --split, --data-dir and --image-count ask for.

    None leaves the choice to the conversion. ``called`` is the option that named them, where it is
    not --images. ``step`` hears how many have been read.

    Raises:
        InputError: there is no image that can be read.
    """
    if where is None and count is None and split is None and data_dir is None:
        return None
    from dcnify.data import load_images

    return load_images(
        where,
        count=count or 16,
        size=tuple(shape[1:]),
        mean=source.mean or (0.485, 0.456, 0.406),
        std=source.std or (0.229, 0.224, 0.225),
        split=split,
        data_dir=data_dir,
        called=called,
        on_progress=lambda done, total: step("reading images", done, total),
    )
