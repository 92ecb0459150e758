"""Axis algebra: what each axis of a tensor means, followed through views and permutations.

An attention is a token mixer over the image only if its tokens are the image's rows and columns,
in raster order, all of them. Shapes alone cannot tell (49 tokens may be a 7x7 image or a 7x7
window of a larger one), so every axis carries its factors: which image rows and columns it walks
over, at which stride. Reshapes split and merge factors exactly as index arithmetic does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

ROW, COL, CHANNEL, BATCH, OTHER = "row", "col", "channel", "batch", "other"
SPATIAL = (ROW, COL)


@dataclass(frozen=True)
class Factor:
    """A loop over ``size`` values of one kind of index, ``stride`` apart, out of ``extent``.

    A whole image row index of 56 is (row, 56, 1, 56); cut into windows of 7 it becomes an outer
    (row, 8, 7, 56) and an inner (row, 7, 1, 56).
    """

    kind: str
    size: int
    stride: int = 1
    extent: int = 0
    windowed: bool = False
    """Cut into windows of which there happens to be only one at this image size."""
    shift: int = 0
    """How far the index was rolled, and not rolled back."""

    @property
    def complete(self) -> bool:
        """Whether all values of the index are there, rolled or not, in one window or none."""
        return self.size == self.extent and self.stride == 1

    @property
    def whole(self) -> bool:
        return self.complete and not self.windowed and not self.shift


def whole(kind: str, size: int) -> tuple[Factor, ...]:
    """The factors of an axis that walks over all of one index; none for an axis of size 1."""
    return () if size == 1 else (Factor(kind, size, 1, size),)


@dataclass(frozen=True)
class Axis:
    """One axis: the product of its factors, with extra tokens before and after them."""

    factors: tuple[Factor, ...] = ()
    before: int = 0
    after: int = 0

    @property
    def size(self) -> int:
        return self.before + math.prod(f.size for f in self.factors) + self.after

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(f.kind for f in self.factors)

    @property
    def spatial(self) -> bool:
        return bool(self.kinds & set(SPATIAL))

    @property
    def plain(self) -> bool:
        """No tokens before or after the factors."""
        return not self.before and not self.after

    def rolled(self, steps: int) -> Axis:
        """The same axis, rolled; parts of an index, and several, are cut into windows by that."""
        if len(self.factors) != 1 or not self.plain or not self.factors[0].complete:
            return self.cut()
        factor = self.factors[0]
        shift = factor.shift + steps
        return Axis((replace(factor, shift=0 if shift % factor.extent == 0 else shift),))

    @property
    def in_place(self) -> bool:
        """Whether it walks over all rows, or columns, or both, from the first to the last."""
        kinds = [f.kind for f in self.factors]
        known = kinds in ([], [ROW], [COL], [ROW, COL])
        return self.plain and known and all(f.complete and not f.shift for f in self.factors)

    def cut(self) -> Axis:
        """The same axis, cut into windows."""
        return replace(self, factors=tuple(replace(f, windowed=True) for f in self.factors))


Axes = tuple[Axis, ...]


def axis(kind: str, size: int) -> Axis:
    """An axis that walks over all of one index."""
    return Axis(whole(kind, size))


def unknown(shape: Sequence[int]) -> Axes:
    """Axes of which nothing is known but their size."""
    return tuple(axis(OTHER, size) for size in shape)


def raster_grid(tokens: Axis) -> tuple[int, int] | None:
    """(H, W) if the axis walks over all rows and, fastest, all columns; None otherwise."""
    kinds = [f.kind for f in tokens.factors]
    if kinds not in ([ROW, COL], [ROW], [COL]) or not all(f.whole for f in tokens.factors):
        return None
    size = {f.kind: f.size for f in tokens.factors}
    return size.get(ROW, 1), size.get(COL, 1)


def broadcast(operands: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Axes of an elementwise result: for each axis the best-known operand of that size."""
    result = []
    for position, size in enumerate(shape):
        candidates = []
        for axes in operands:
            index = position - (len(shape) - len(axes))
            if 0 <= index < len(axes) and axes[index].size == size:
                candidates.append(axes[index])
        result.append(max(candidates, key=_knowledge) if candidates else axis(OTHER, size))
    return tuple(result)


def _knowledge(candidate: Axis) -> tuple[int, int, int]:
    known = sum(f.kind != OTHER for f in candidate.factors)
    uncut = sum(f.complete and not f.windowed for f in candidate.factors)
    return (1 if candidate.spatial else 0, known and uncut, known)


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after a view to ``shape``: factors are merged and split as the index arithmetic does."""
    result: list[Axis] = [Axis()] * len(shape)
    old = [a for a in axes if a.size != 1]
    new = [(i, size) for i, size in enumerate(shape) if size != 1]
    for sources, targets in _groups(old, new):
        sizes = [size for _, size in targets]
        for (index, _), found in zip(targets, _regroup(sources, sizes), strict=True):
            result[index] = found
    return tuple(_mark_single_windows(axes, result, shape))


def _groups(old: list[Axis], new: list[tuple[int, int]]):
    """Split both sides into the shortest runs of equal product."""
    i = j = 0
    while i < len(old) and j < len(new):
        left, right = [old[i]], [new[j]]
        a, b = old[i].size, new[j][1]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                if i >= len(old):
                    return
                a *= old[i].size
                left.append(old[i])
                i += 1
            else:
                if j >= len(new):
                    return
                b *= new[j][1]
                right.append(new[j])
                j += 1
        yield left, right


def _regroup(sources: list[Axis], sizes: list[int]) -> list[Axis]:
    if len(sources) == len(sizes) == 1:
        return sources
    if not all(source.plain for source in sources):
        return [axis(OTHER, size) for size in sizes]
    pending = [factor for source in sources for factor in source.factors]
    result = []
    for size in sizes:
        taken, pending = _take(pending, size)
        if taken is None:
            return [axis(OTHER, s) for s in sizes]
        result.append(Axis(merge(taken)))
    return result


def _take(factors: list[Factor], size: int) -> tuple[list[Factor] | None, list[Factor]]:
    """Take leading factors whose product is ``size``, splitting the last one if it must be."""
    taken: list[Factor] = []
    rest = list(factors)
    while size > 1:
        if not rest:
            return None, []
        head = rest.pop(0)
        if size % head.size == 0:
            taken.append(head)
            size //= head.size
        elif head.size % size == 0:
            inner = head.size // size
            taken.append(replace(head, size=size, stride=head.stride * inner))
            rest.insert(0, replace(head, size=inner))
            size = 1
        else:
            return None, []
    return taken, rest


def merge(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """Join neighbours that together walk over one longer stretch of the same index."""
    result: list[Factor] = []
    for factor in factors:
        last = result[-1] if result else None
        if (
            last is not None
            and (last.kind, last.extent, last.shift) == (factor.kind, factor.extent, factor.shift)
            and last.stride == factor.size * factor.stride
        ):
            result[-1] = replace(factor, size=last.size * factor.size)
        else:
            result.append(factor)
    return tuple(result)


def coarsen(axes: Axes) -> Axes:
    """Let patch indices count as rows and columns of their own.

    When the fine part of an index has gone into the channels (a patch embedding written as a
    reshape and a linear layer), what is left walks over all patches: a whole, coarser index.
    """
    present: dict[str, list[Factor]] = {kind: [] for kind in SPATIAL}
    for a in axes:
        for f in a.factors:
            if f.kind in present:
                present[f.kind].append(f)
    complete = {
        fs[0]: replace(fs[0], stride=1, extent=fs[0].size)
        for fs in present.values()
        if len(fs) == 1 and fs[0].stride > 1 and fs[0].size * fs[0].stride == fs[0].extent
    }
    if not complete:
        return axes
    return tuple(replace(a, factors=tuple(complete.get(f, f) for f in a.factors)) for a in axes)


def _mark_single_windows(
    before: Axes, after: Sequence[Axis], shape: Sequence[int]
) -> Sequence[Axis]:
    """Recognise a window partition into one single window: (B, 7, 7, C) -> (B, 1, 7, 1, 7, C)."""
    if len(after) != len(before) + 2:
        return after
    at = {
        kind: next((i for i, a in enumerate(after) if [f.kind for f in a.factors] == [kind]), None)
        for kind in SPATIAL
    }
    row, col = at[ROW], at[COL]
    if row is None or col is None:
        return after
    for side in (-1, 1):
        i, j = row + side, col + side
        if 0 <= i < len(shape) and 0 <= j < len(shape) and shape[i] == shape[j] == 1 and i != j:
            marked = list(after)
            for index in (row, col):
                marked[index] = after[index].cut()
            return marked
    return after
