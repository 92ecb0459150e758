"""From the shapes of a call to its launches: pure arithmetic, no tensors, cached.

The launcher and ``python -m dcnify.kernels.tools.inspect`` both read launches from here, so what is
inspected is what runs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from dcnify.kernels.config import (
    Block,
    Tile,
    Window,
    forward_block,
    points_block,
    scatter_block,
    tile_for,
    window_for,
)

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4}


class Geometry(NamedTuple):
    """What a kernel is compiled for: the arguments of an operator but ``groups`` and the scale."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int
    remove_center: bool
    softmax: bool

    @property
    def points(self) -> int:
        """K, points of one group of one query."""
        return self.kernel_h * self.kernel_w - self.remove_center

    def extent(self, scale: float) -> tuple[float, float]:
        """Distance from the first to the last point of a query, in pixels (h, w)."""
        return (
            self.dilation_h * (self.kernel_h - 1) * scale,
            self.dilation_w * (self.kernel_w - 1) * scale,
        )

    def constants(self) -> dict[str, Any]:
        return {name.upper(): value for name, value in self._asdict().items()}


class KernelCall(NamedTuple):
    """The shapes and dtype of one call. Pairs are (height, width)."""

    batch: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    groups: int
    group_channels: int
    dtype: str
    """Of ``value``: float16, bfloat16 or float32."""
    packed: bool
    """Whether offsets and weights of a group are one run of memory, as in DCNv4."""
    paired: bool
    """Whether the tensors' addresses let 16-bit channels be read two at a time."""
    wide: bool
    """Whether an index may not fit in 32 bits."""
    target: str
    """Such as ``sm_90`` or ``gfx942``."""

    @property
    def rows(self) -> int:
        """Rows of the whole call: every group of every query."""
        return self.batch * self.out_size[0] * self.out_size[1] * self.groups


class Launch(NamedTuple):
    """One kernel's launch."""

    programs: int
    constants: dict[str, Any]
    warps: int


class BackwardPlan(NamedTuple):
    """The launches of a backward pass; ``value`` is None where ``points`` adds the value's, too."""

    points: Launch
    value: Launch | None
    scatter: bool


@lru_cache(maxsize=4096)
def plan_forward(call: KernelCall, geometry: Geometry, block: Block | None = None) -> Launch:
    """The launch of `dcnify.kernels.forward.dcnv4_forward`, with ``block`` where one is given."""
    block = block or forward_block(call.group_channels, ITEMSIZE[call.dtype], call.target)
    return _by_rows(call, geometry, block, {}, paired=call.paired)


@lru_cache(maxsize=4096)
def plan_backward(
    call: KernelCall,
    geometry: Geometry,
    scale: float,
    want_value: bool = True,
    block: Block | None = None,
    window: Window | None = None,
) -> BackwardPlan:
    """The launches of `dcnify.kernels.backward` and, where it pays, of `backward_value`.

    With ``block`` and ``window`` where they are given; whether a window pays is not theirs to say.
    """
    extent = geometry.extent(scale)
    stride = geometry.stride_h, geometry.stride_w
    size = ITEMSIZE[call.dtype]
    usual = window_for(call.group_channels, geometry.points, extent, stride, size, call.target)
    window = usual and (window or usual)
    scatter = want_value and window is None
    pick = scatter_block if scatter else points_block
    block = block or pick(call.group_channels, size, call.target)
    extra = {"SCATTER": scatter}
    points = _by_rows(call, geometry, block, extra, paired=call.paired and not scatter)
    if not want_value or window is None:
        return BackwardPlan(points, None, scatter)
    out_h, out_w = call.out_size
    tiles = -(-out_h // window.tile_h) * -(-out_w // window.tile_w)
    constants = geometry.constants() | {
        "PACKED": call.packed,
        "D": call.group_channels,
        "BLOCK_D": window.block_d,
        "BLOCK_K": window.block_k,
        "TILE_H": window.tile_h,
        "TILE_W": window.tile_w,
        "WINDOW_H": window.window,
        "WINDOW_W": window.window,
        "PRECISION": _precision(call),
        "WIDE": call.wide,
    }
    value = Launch(call.batch * tiles * call.groups, constants, window.warps)
    return BackwardPlan(points, value, scatter)


def _by_rows(
    call: KernelCall, geometry: Geometry, block: Block, extra: dict[str, Any], paired: bool
) -> Launch:
    size = ITEMSIZE[call.dtype]
    width = call.group_channels
    tile = tile_for(block.rows, call.groups, width, size, *call.out_size)
    even = block.block_d % 2 == 0 and width % block.block_d == 0
    constants = (
        geometry.constants()
        | extra
        | {
            "PACKED": call.packed,
            "D": width,
            "BLOCK_D": block.block_d,
            "PAIRED": paired and even and size == 2,
            "ROWS": block.rows,
            "TILE_H": tile.height,
            "TILE_W": tile.width,
            "TILE_G": tile.groups,
            "WIDE": call.wide,
        }
    )
    return Launch(_programs(call, block.rows, tile), constants, block.warps)


def _programs(call: KernelCall, rows: int, tile: Tile) -> int:
    if tile.height == 0:
        return -(-call.rows // rows)
    out_h, out_w = call.out_size
    tiles = -(-out_h // tile.height) * -(-out_w // tile.width)
    return call.batch * tiles * (call.groups // tile.groups)


def _precision(call: KernelCall) -> str:
    """How the value's gradient multiplies: 16-bit numbers are exact in tf32, float32 is split."""
    if call.target.startswith("gfx") or call.target in ("sm_70", "sm_75"):  # they have no tf32
        return "ieee"
    return "tf32x3" if call.dtype == "float32" else "tf32"
