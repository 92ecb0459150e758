"""Where DCNv4 samples: the arguments of one call, checked, and the shapes that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from dcnify.errors import InputError

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = (
    *("kernel_size", "stride", "padding", "dilation"),
    *("groups", "offset_scale", "remove_center", "softmax"),
)
"""Of the arguments, in order: four pairs, then the others."""


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """An int or an (h, w) pair as an (h, w) pair; `InputError` names the argument otherwise."""
    if is_whole(value):
        return (int(value), int(value))  # type: ignore[arg-type]  # is_whole takes NumPy's, too
    if isinstance(value, tuple | list) and len(value) == 2:
        height, width = value
        if is_whole(height) and is_whole(width):
            return (int(height), int(width))
    raise InputError(f"{name} is an int or an (h, w) pair of ints, not {value!r}")


def is_whole(value: object) -> bool:
    """Whether ``value`` is an int, Python's or NumPy's; a bool is not."""
    numpys = type(value).__module__ == "numpy" and hasattr(value, "__index__")
    return numpys or (isinstance(value, int) and not isinstance(value, bool))


@dataclass(frozen=True)
class Sampling:
    """How one DCNv4 call samples: its keyword arguments. Pairs are (height, width).

    Raises:
        InputError: a kernel, stride, dilation or group count below 1, negative padding, or a centre
            to remove from a kernel that has none.
    """

    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 4
    offset_scale: float = 1.0
    remove_center: bool = False
    softmax: bool = False

    def __post_init__(self) -> None:
        for name, least in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            given = pair(getattr(self, name), name)
            if min(given) < least:
                raise InputError(f"{name} must be at least {least}, not {given}")
            object.__setattr__(self, name, given)
        for name in ("remove_center", "softmax"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is a bool, not {getattr(self, name)!r}")
        if not isinstance(self.offset_scale, int | float) or not math.isfinite(self.offset_scale):
            raise InputError(f"offset_scale is a finite number, not {self.offset_scale!r}")
        if not is_whole(self.groups):
            raise InputError(f"groups is an int, not {self.groups!r}")
        object.__setattr__(self, "groups", int(self.groups))
        if self.groups < 1:
            raise InputError(f"groups must be at least 1, not {self.groups}")
        kh, kw = self.kernel_size
        if self.remove_center and (kh % 2 == 0 or kw % 2 == 0 or kh * kw == 1):
            raise InputError(
                f"remove_center needs an odd kernel of more than one point, not {kh}x{kw}"
            )

    @classmethod
    def of(cls, *given: Any, **named: Any) -> Sampling:
        """Make one from arguments as a caller writes them, where an int stands for a pair."""
        return cls(*given, **named)

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """The K kernel cells (i over width, j over height), in the operator's x-major order."""
        kh, kw = self.kernel_size
        cells = tuple((i, j) for i in range(kw) for j in range(kh))
        if not self.remove_center:
            return cells
        return tuple(cell for cell in cells if cell != (kw // 2, kh // 2))

    @property
    def num_points(self) -> int:
        """K, the points each group samples per query."""
        return self.kernel_size[0] * self.kernel_size[1] - int(self.remove_center)

    @property
    def offset_mask_channels(self) -> int:
        """3·G·K: the numbers one query needs, before any padding."""
        return 3 * self.groups * self.num_points

    @property
    def extent(self) -> tuple[int, int]:
        """Distance from the first to the last kernel cell, in pixels."""
        (kh, kw), (dh, dw) = self.kernel_size, self.dilation
        return dh * (kh - 1), dw * (kw - 1)

    @property
    def half(self) -> tuple[int, int]:
        """Distance from the first kernel cell to the kernel centre, in pixels, rounded down."""
        return self.extent[0] // 2, self.extent[1] // 2

    @property
    def first_center(self) -> tuple[int, int]:
        """Input row and column under the kernel centre of query (0, 0); negative is outside."""
        return self.half[0] - self.padding[0], self.half[1] - self.padding[1]

    @property
    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of an operator's call, all but ``softmax``."""
        return {name: getattr(self, name) for name in _NAMES if name != "softmax"}

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Ho, Wo for an image of ``height`` x ``width``, as for a convolution."""
        (pad_h, pad_w), (ext_h, ext_w) = self.padding, self.extent
        return (
            (height + 2 * pad_h - ext_h - 1) // self.stride[0] + 1,
            (width + 2 * pad_w - ext_w - 1) // self.stride[1] + 1,
        )

    def check_channels(self, channels: int) -> None:
        """Raise `InputError` unless the groups divide ``channels``."""
        if isinstance(channels, float | str) or channels is None:
            raise InputError(f"channels is an int, not {channels!r}")
        if channels < 1 or channels % self.groups:
            divisors = [g for g in range(1, channels + 1) if channels % g == 0]
            nearest = min(divisors, key=lambda g: abs(g - self.groups), default=1)
            raise InputError(
                f"{channels} channels do not divide into {self.groups} groups; "
                f"the nearest group count that does is {nearest}"
            )

    def check_size(self, height: int, width: int) -> tuple[int, int]:
        """(Ho, Wo), or an `InputError` where the image or the output would be empty."""
        out_h, out_w = self.output_size(height, width)
        if height < 1 or width < 1:
            raise InputError(f"the image is empty: {height}x{width}")
        if out_h < 1 or out_w < 1:
            raise InputError(
                f"the output would be empty: kernel {self.kernel_size} with dilation "
                f"{self.dilation} spans {self.extent[0] + 1}x{self.extent[1] + 1} pixels, "
                f"the image with padding {self.padding} only "
                f"{height + 2 * self.padding[0]}x{width + 2 * self.padding[1]}"
            )
        return out_h, out_w

    def check(self, value: torch.Tensor, offset_mask: torch.Tensor) -> tuple[int, int]:
        """Check the tensors of one DCNv4 call and return (Ho, Wo). Sizes may be symbolic."""
        self._check_value(value)
        return self._check_points("offset_mask", offset_mask, value, "3·", "at least ")

    def check_separate(
        self, value: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor
    ) -> tuple[int, int]:
        """The same for one DCNv3 call."""
        self._check_value(value)
        self._check_points("offset", offset, value, "2·")
        return self._check_points("mask", mask, value)

    def _check_value(self, value: torch.Tensor) -> None:
        _check_tensor("value", value, value)
        self.check_channels(value.shape[3])

    def _check_points(
        self,
        name: str,
        points: torch.Tensor,
        value: torch.Tensor,
        times: str = "",
        at_least: str = "",
    ) -> tuple[int, int]:
        """Check a tensor of points, which has as many numbers ``times`` for each point."""
        _check_tensor(name, points, value)
        *given, channels = points.shape
        expected = int(times[:1] or 1) * self.groups * self.num_points
        _require(
            channels >= expected if at_least else channels == expected,
            lambda: (
                f"{name} has {channels} channels; expected {at_least}{times}G·K = "
                f"{times}{self.groups}·{self.num_points} = {expected}"
            ),
        )
        batch, height, width, _ = value.shape
        out_h, out_w = self.check_size(height, width)
        for found, needed in zip(given, (batch, out_h, out_w), strict=True):
            _require(
                found == needed,
                lambda: (
                    f"{name} is (B, Ho, Wo) = {tuple(given)}; value {tuple(value.shape)} "
                    f"with kernel {self.kernel_size}, stride {self.stride}, padding "
                    f"{self.padding} and dilation {self.dilation} gives {(batch, out_h, out_w)}"
                ),
            )
        return out_h, out_w


def check_is_tensor(name: str, given: object) -> None:
    """Raise `InputError` unless ``given`` is a tensor."""
    if not isinstance(given, torch.Tensor):
        raise InputError(f"{name} is of type {type(given).__name__}; expected a torch.Tensor")


def _check_tensor(name: str, tensor: torch.Tensor, value: torch.Tensor) -> None:
    if tensor.layout != torch.strided:
        raise InputError(f"{name} has layout {tensor.layout}; expected a dense tensor")
    if tensor.dim() != 4:
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions, channels last"
        )
    if tensor.dtype not in FLOAT_DTYPES:
        raise InputError(
            f"{name} is {tensor.dtype}; expected float16, bfloat16, float32 or float64"
        )
    if tensor.device != value.device:
        raise InputError(f"value is on {value.device}, {name} on {tensor.device}; expected one")


def arguments(*given: Any) -> dict[str, Any]:
    """`Sampling`'s fields, in order, as an operator's keyword arguments, checked."""
    if torch.compiler.is_compiling():  # what is traced is checked when it was traced
        pairs = {name: pair(one, name) for name, one in zip(_NAMES[:4], given, strict=False)}
        return {**pairs, **dict(zip(_NAMES[4:], given[4:], strict=True))}
    try:
        return _arguments(*given)
    except TypeError:  # a list has no hash
        return _arguments.__wrapped__(*given)


@lru_cache(maxsize=1024, typed=True)
def _arguments(*given: Any) -> dict[str, Any]:
    return dict(vars(Sampling(*given)))


def views_of(
    points: Sequence[torch.Tensor], sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Offsets (B, Ho, Wo, G, 2K) and weights (B, Ho, Wo, G, K) of an operator's point tensors.

    Views, of DCNv4's one tensor or DCNv3's two. Works on their gradients, too.
    """
    k = sampling.num_points
    if len(points) == 1:
        groups = points[0][..., : sampling.offset_mask_channels].unflatten(-1, (-1, 3 * k))
        return groups[..., : 2 * k], groups[..., 2 * k :]
    offset, mask = points
    return offset.unflatten(-1, (-1, 2 * k)), mask.unflatten(-1, (-1, k))


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype of the sums: float64 when a tensor is float64, float32 otherwise."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def _require(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    if isinstance(condition, torch.SymBool):
        torch._check_value(condition, message)
    elif not condition:
        raise InputError(message())
