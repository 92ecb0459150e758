"""How a call's offsets and weights become those of ONNX's operators: which numbers, in which order.

Our points go down the kernel's columns with offsets (x, y) (DCNv4, arXiv 2401.06197), those of
ONNX's DeformConv along its rows with (y, x).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dcnify.ops.sampling import Sampling


@dataclass(frozen=True)
class Channels:
    """Numbers taken from the channels of a tensor, each multiplied and shifted."""

    index: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the numbers are taken as they are."""
        return not any(self.shift) and all(one == 1 for one in self.scale)


@dataclass(frozen=True)
class PointLayout:
    """Where the points of a call lie in its tensor, or in its tensors, of points.

    Args:
        sampling: the call's arguments.
        packed: one tensor holds a group's offsets and then its weights (DCNv4); otherwise there is
            one of offsets and one of weights (DCNv3).
    """

    sampling: Sampling
    packed: bool

    def kernel_offsets(self) -> Channels:
        """(G, kh, kw, [y, x]) of DeformConv, from our offsets before ``offset_scale``.

        A cell without a point, the centre that ``remove_center`` leaves out, stays where it is.
        """
        how = self.sampling
        numbers: list[tuple[int, float, float]] = []
        for group in range(how.groups):
            for row, column, point in self._kernel_cells():
                moved = self._moved(row, column)
                for axis in (1, 0):  # y, then x
                    at = self._offset_at(group, point or 0) + axis
                    if point is None:
                        numbers.append((at, 0.0, 0.0))
                    else:
                        numbers.append((at, float(how.offset_scale), moved[axis]))
        index, scale, shift = zip(*numbers, strict=True)
        return Channels(index, scale, shift)

    def kernel_weights(self) -> Channels:
        """(G, kh, kw) of DeformConv's mask; a cell without a point has weight 0."""
        cells = self._kernel_cells()
        groups = range(self.sampling.groups)
        index = tuple(self._weight_at(group, point or 0) for group in groups for *_, point in cells)
        scale = tuple(float(point is not None) for _ in groups for *_, point in cells)
        return Channels(index, scale, (0.0,) * len(index))

    def point_offsets(self) -> Channels:
        """(G, K, [x, y]) as the operator has them."""
        groups, points = range(self.sampling.groups), range(self.sampling.num_points)
        return _plain(
            self._offset_at(group, point) + axis
            for group in groups
            for point in points
            for axis in (0, 1)
        )

    def point_weights(self) -> Channels:
        """(G, K) as the operator has them."""
        groups, points = range(self.sampling.groups), range(self.sampling.num_points)
        return _plain(self._weight_at(group, point) for group in groups for point in points)

    def kernel_logits(self) -> Channels:
        """(G, K) in the order of the kernel's cells, for a softmax, which has no order."""
        points = [point for *_, point in self._kernel_cells() if point is not None]
        groups = range(self.sampling.groups)
        return _plain(self._weight_at(group, point) for group in groups for point in points)

    def with_center(self) -> tuple[int, ...]:
        """Of K weights in that order and a zero behind them, the one of each cell."""
        points = self.sampling.num_points
        center = len(self._kernel_cells()) // 2
        return (*range(center), points, *range(center, points))

    def _kernel_cells(self) -> list[tuple[int, int, int | None]]:
        """(row, column, our point) of every cell of the kernel, row by row."""
        at = {cell: point for point, cell in enumerate(self.sampling.points)}
        kh, kw = self.sampling.kernel_size
        return [(row, column, at.get((column, row))) for row in range(kh) for column in range(kw)]

    def _moved(self, row: int, column: int) -> tuple[float, float]:
        """(x, y) by which ``offset_scale`` moves a cell of the kernel's own grid."""
        (half_h, half_w), (dil_h, dil_w) = self.sampling.half, self.sampling.dilation
        still = 1 - self.sampling.offset_scale
        return (half_w - column * dil_w) * still, (half_h - row * dil_h) * still

    def _offset_at(self, group: int, point: int) -> int:
        numbers = 3 if self.packed else 2
        return numbers * self.sampling.num_points * group + 2 * point

    def _weight_at(self, group: int, point: int) -> int:
        points = self.sampling.num_points
        return (3 * group + 2) * points + point if self.packed else points * group + point


def _plain(index: Iterable[int]) -> Channels:
    numbers = tuple(index)
    return Channels(numbers, (1.0,) * len(numbers), (0.0,) * len(numbers))
