"""`SourceSpec`: which model to open and how, as plain data."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnify.errors import InputError
from dcnify.files import is_regular, near_files
from dcnify.spec import Spec, option
from dcnify.words import did_you_mean, first_line

PREFIXES = {
    "timm": "timm:convnext_tiny",
    "torchvision": "torchvision:resnet50",
    "python": "python:package.module:factory",
}
"""Valid prefixes of a source, each with an example."""

_PREFIX = re.compile(r"([A-Za-z][\w-]+):(.*)", re.DOTALL)
_HUB = ("hf-hub", "hf_hub")
_LARGEST_SIDE = 1 << 14
DEFAULT_SHAPE = (3, 224, 224)
"""(C, H, W) of the input of a model that does not say."""
_WORDS = {"none": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True)
class SourceSpec(Spec):
    """A source and the options for opening it; `dcnify.artifact.open_source` takes one."""

    source: str = option(
        help="timm:NAME, torchvision:NAME, a checkpoint (.pt .pth .tar .safetensors), an artifact "
        "folder, or python:package.module:factory.",
        metavar="SOURCE",
    )
    arch: str | None = option(
        None,
        help="The architecture, if the checkpoint names none: NAME of timm, torchvision:NAME, or "
        "python:package.module:factory.",
    )
    model_arg: tuple[str, ...] = option(
        (),
        help="An argument of the model's constructor, such as depths=[2,2,6,2] or num_classes=10. "
        "May be given more than once.",
        metavar="KEY=VALUE",
    )
    pretrained: bool = option(False, help="timm, torchvision: with the published weights.")
    use_ema: bool = option(False, help="Checkpoint: the averaged weights, not the last.")
    key: str | None = option(
        None,
        help="Checkpoint: the state dict under this key, if the file holds several: teacher.",
        metavar="NAME",
    )
    ignore: tuple[str, ...] = option(
        (),
        help="Checkpoint: leave out tensors of these names, such as aux_head.*. May be given more "
        "than once.",
        metavar="PATTERN",
    )
    trust_pickle: bool = option(False, help="Unpickle a file that may run code. Yours only.")
    trust_code: bool = option(False, help="Import the Python code that an artifact names.")
    input_size: str | None = option(
        None,
        help="Image size: 224, 224x320 (HxW) or 3x224x320. The model's own by default.",
        metavar="SIZE",
    )
    part: str | None = option(
        None,
        help="Look for layers in this part of the model alone, by its path: backbone. For models "
        "that cannot be captured whole, such as detectors.",
        metavar="PATH",
    )

    @property
    def kind(self) -> str:
        """``timm``, ``torchvision``, ``python``, or ``path`` for a file or folder."""
        prefix = self.source.partition(":")[0]
        return prefix if prefix != self.source and prefix in PREFIXES else "path"

    @property
    def names_code(self) -> bool:
        """Whether the person named code to import: as the source, or as its architecture."""
        return self.kind == "python" or (self.arch or "").startswith("python:")

    @property
    def name(self) -> str:
        """The source without its prefix."""
        return self.source if self.kind == "path" else self.source.partition(":")[2]

    @property
    def model_args(self) -> dict[str, Any]:
        """Constructor arguments: ``depths=[2,2]`` and ``act=gelu`` as ``depths`` and ``act``."""
        return parse_model_args(self.model_arg)

    def input_shape(
        self, own: tuple[int, ...] | None, recipe: tuple[int, ...] | None = None
    ) -> tuple[int, int, int]:
        """(C, H, W) of the input: ``input_size``, else the recipe's, else the model's ``own``.

        The model's own completes a size without channels.
        """
        size, own = self._parse_size(), own or DEFAULT_SHAPE
        channels, rows, columns = (recipe or own) if not size else own
        if size:
            channels, rows, columns = size if len(size) == 3 else (channels, size[0], size[-1])
        if max(channels, rows, columns) > _LARGEST_SIDE:
            shape = (channels, rows, columns)
            raise InputError(f"an input of {shape} is beyond {_LARGEST_SIDE} in size")
        return channels, rows, columns

    def check(self) -> None:
        """Refuse a request that cannot work, before torch or timm is imported.

        Raises:
            InputError: the prefix is unknown, a name is empty, the file does not exist, an option
                is malformed, or an option does not apply to this kind of source.
        """
        parse_model_args(self.model_arg)
        self._parse_size()
        if self.kind not in ("timm", "torchvision"):
            why = f"is for timm:NAME and torchvision:NAME, not for {self.source}"
            refuse_options({"--pretrained": self.pretrained}, why)
        if self.kind == "path":
            _check_path(self.source)
            return
        for_files: dict[str, Any] = {"--arch": self.arch, "--use-ema": self.use_ema}
        for_files |= {"--trust-pickle": self.trust_pickle, "--key": self.key}
        for_files |= {"--ignore": self.ignore}
        refuse_options(for_files, f"is for weight files, not for {self.source}")
        module, _, attribute = self.name.partition(":")
        if not self.name:
            raise InputError(f"{self.source} needs a name, as in {PREFIXES[self.kind]}")
        if self.kind == "python" and not (module and attribute):
            raise InputError(f"{self.source}: expected {PREFIXES['python']}")

    def _parse_size(self) -> list[int]:
        if not self.input_size:
            return []
        try:
            numbers = [int(part) for part in self.input_size.lower().replace(",", "x").split("x")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 3 or min(numbers) < 1 or max(numbers) > _LARGEST_SIDE:
            raise InputError(
                f"--input-size {self.input_size}: expected 224, 224x320 (HxW) or 3x224x320"
            )
        return numbers


def parse_model_args(items: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """``["depths=[2,2]", "act=gelu"]`` to ``{"depths": [2, 2], "act": "gelu"}``."""
    parsed: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip().isidentifier():
            raise InputError(f"--model-arg {item}: expected KEY=VALUE, such as num_classes=10")
        parsed[key.strip()] = _parse_value(text.strip())
    return parsed


def refuse_options(options: dict[str, Any], why: str) -> None:
    """Raise `InputError` for the first option that was given although it does not apply."""
    for name, value in options.items():
        if value:
            raise InputError(f"{name} {why}")


def _parse_value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text.replace("(", "[").replace(")", "]"))
    except ValueError:
        return text


def _check_path(source: str) -> None:
    if not source:
        raise InputError(f"the source is empty: give a file, a folder, or {PREFIXES['timm']}")
    path = Path(source)
    try:
        readable = path.is_dir() or is_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(_unknown(source, path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{source} cannot be read: {first_line(error)}") from None
    if not readable:
        raise InputError(f"{source} is neither a regular file nor a folder")


def _unknown(source: str, path: Path) -> str:
    match = _PREFIX.fullmatch(source)
    if match is None:
        hint = f"; a timm model is written timm:{source}" if source.isidentifier() else ""
        return f"{source} does not exist{near_files(path) or hint}"
    prefix = match[1]
    if prefix in _HUB:
        return f"{source}: write timm:{source}"
    known = [f"{one}:" for one in (*PREFIXES, _HUB[0])]
    *names, last = PREFIXES.values()
    otherwise = f"; a source is a file, a folder, {', '.join(names)} or {last}"
    near = did_you_mean(f"{prefix}:", known, cutoff=0.5, otherwise=otherwise)
    return f"{source}: there is no prefix '{prefix}:'{near}"
