"""Input size and statistics that a model expects of its images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from torch import nn

from dcnify.data.statistics import Statistics, by_channel, pretrained_cfg_of

_MOST_NUMBERS = 4096
_LARGEST_SIDE = 1 << 14


class Preprocessing(NamedTuple):
    """The images that a model expects; None for each unknown property."""

    input_size: tuple[int, int, int] | None = None
    """(C, H, W)."""
    mean: tuple[float, ...] | None = None
    """By channel, as is ``std``."""
    std: tuple[float, ...] | None = None
    interpolation: str | None = None

    @property
    def statistics(self) -> Statistics:
        """All but the size."""
        return Statistics(self.mean, self.std, self.interpolation)


def preprocessing_of(
    model: nn.Module, args: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> Preprocessing:
    """Read the preprocessing off a timm model, or one that carries timm's ``pretrained_cfg``.

    ``in_chans`` and ``img_size`` of the constructor's ``args`` count; ``input_size``, ``mean``,
    ``std`` or ``img_size`` that a training run ``recorded`` win.
    """
    known = {**pretrained_cfg_of(model), **(recorded or {})}
    statistics, size = Statistics.of(known), known.get("input_size")
    if not is_numbers(size, int, 3):
        return Preprocessing(None, *statistics)
    channels = args.get("in_chans") or getattr(model, "in_chans", None) or size[0]
    image = args.get("img_size") or known.get("img_size") or size[1:]
    rows, columns = (image, image) if isinstance(image, int) else tuple(image)[-2:]
    mean, std = (one and by_channel(one, channels) for one in statistics[:2])
    return Preprocessing((channels, rows, columns), mean, std, statistics.interpolation)


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
