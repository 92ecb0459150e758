"""Input size, mean and standard deviation that a model expects of its images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from torch import nn

_MOST_NUMBERS = 4096
_LARGEST_SIDE = 1 << 14


class Preprocessing(NamedTuple):
    """The images that a model expects; None for each unknown property."""

    input_size: tuple[int, int, int] | None = None
    """(C, H, W)."""
    mean: tuple[float, ...] | None = None
    """By channel, as is ``std``."""
    std: tuple[float, ...] | None = None


def preprocessing_of(
    model: nn.Module, args: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> Preprocessing:
    """Read the preprocessing off a timm model, or one that carries timm's ``pretrained_cfg``.

    ``in_chans`` and ``img_size`` of the constructor's ``args`` count; ``input_size``, ``mean``,
    ``std`` or ``img_size`` that a training run ``recorded`` win.
    """
    config = getattr(model, "pretrained_cfg", None)
    known = {**(config if isinstance(config, dict) else {}), **(recorded or {})}
    size = known.get("input_size")
    if not is_numbers(size, int, 3):
        return Preprocessing()
    channels = args.get("in_chans") or getattr(model, "in_chans", None) or size[0]
    image = args.get("img_size") or known.get("img_size") or size[1:]
    rows, columns = (image, image) if isinstance(image, int) else tuple(image)[-2:]
    means = {
        key: by_channel(known[key], channels)
        for key in ("mean", "std")
        if isinstance(known.get(key), list | tuple) and known[key]
    }
    return Preprocessing((channels, rows, columns), **means)


def is_numbers(
    value: Any, kind: type | tuple[type, ...], count: int | None = None
) -> TypeGuard[Sequence[Any]]:
    """Whether ``value``, read from a file, is a list of ``count`` numbers of this ``kind``."""
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= _MOST_NUMBERS
        and count in (None, len(value))
        and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)
    )


def is_input_size(value: Any) -> TypeGuard[Sequence[int]]:
    """Whether ``value``, read from a file, is a plausible [channels, height, width]."""
    return is_numbers(value, int, 3) and all(0 < n <= _LARGEST_SIDE for n in value)


def by_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Average over channels if there are others: timm has three even for grey images."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels
