"""Read off a state dict's shapes what a name leaves open: classes, channels, patch, image size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import timm

from dcnify.sources.state_dict import Mismatch

POSITIONAL = re.compile(
    r"pos_emb|rel_pos|relative_pos|attention_bias|rope|grid|mlp_tokens|window|coords"
)
_USUAL_SIZES = (
    *(128, 160, 192, 224, 240, 256, 288, 320, 336, 384, 392, 448, 480, 512, 518, 560, 576),
    *(640, 672, 768, 896, 1024, 32, 64, 96),
)
_BIAS_TABLE = "relative_position_bias_table"


def classifiers(name: str) -> tuple[str, ...]:
    """Paths of the last layers of the timm model ``name``."""
    config = timm.get_pretrained_cfg(name)
    return _names(config and config.classifier)


def head_and_stem(name: str, mismatch: Mismatch) -> dict[str, Any]:
    """``num_classes``, ``in_chans``, ``patch_size`` and ``window_size``, if not the default.

    ``mismatch`` is that between a state dict and the timm model ``name`` of default arguments.
    """
    config = timm.get_pretrained_cfg(name)
    differ = {key: (file, model) for key, file, model in mismatch.reshaped}
    found: dict[str, Any] = {}
    for layer in classifiers(name):
        weight = f"{layer}.weight"
        if weight in differ and differ[weight][0][1:] == differ[weight][1][1:]:
            found["num_classes"] = differ[weight][0][0]
        elif weight in mismatch.missing:
            found["num_classes"] = 0
    for layer in _names(config and config.first_conv):
        file, model = differ.get(f"{layer}.weight", ((), ()))
        default = (config.input_size or (3,))[0]
        if len(file) == len(model) >= 2 and file[1] != model[1]:
            channels, rest = divmod(file[1] * default, model[1])
            if not rest and channels:
                found["in_chans"] = channels
        if len(file) == len(model) == 4 and file[2:] != model[2:]:
            found["patch_size"] = file[2] if file[2] == file[3] else list(file[2:])
    for key, (file, _) in differ.items():
        if key.endswith(_BIAS_TABLE) and len(file) == 2 and (window := _window(file[0])):
            found["window_size"] = window
    return found


def only_positions(mismatch: Mismatch) -> bool:
    """Whether all that differs depends on the image size."""
    names = [*mismatch.missing, *mismatch.unexpected, *(name for name, *_ in mismatch.reshaped)]
    return all(POSITIONAL.search(name) for name in names)


def image_sizes(name: str, mismatch: Mismatch) -> Iterator[int]:
    """Image sizes to try, the one that the position grids show first."""
    config = timm.get_pretrained_cfg(name)
    default = (config.input_size if config else (3, 224, 224))[-1]
    first = [
        round(default * ratio)
        for _, file, model in mismatch.reshaped
        if (ratio := _scale(file, model))
    ]
    yield from dict.fromkeys([*first[:1], *(size for size in _USUAL_SIZES if size != default)])


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _scale(file: tuple[int, ...], model: tuple[int, ...]) -> float | None:
    """How much finer the file's position grid is, or how much larger its window.

    Grids are (1, prefix + n·n, C) or (.., n, n), tables of windows ((2 n - 1)², heads).
    """
    if len(file) == len(model) == 3 and file[0] == 1:
        side = math.isqrt(model[1])
        prefix = model[1] - side**2
        other = math.isqrt(max(0, file[1] - prefix))
        return other / side if other**2 + prefix == file[1] else None
    if len(file) == len(model) == 4 and file[2] == file[3]:
        return file[2] / model[2]
    if len(file) == len(model) == 2 and (window := _window(file[0])) and _window(model[0]):
        return window / _window(model[0])
    return None


def _window(rows: int) -> int:
    """The window of a table of so many relative positions; 0 if it is not square."""
    side = math.isqrt(rows)
    return (side + 1) // 2 if side**2 == rows and side % 2 else 0
