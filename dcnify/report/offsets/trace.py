"""Record where deformable layers sample during one call of a model, as the operator was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dcnify.graph.example import Example
from dcnify.nn import DepthwiseDCNv4
from dcnify.nn.geometry import tensor_given
from dcnify.ops.sampling import Sampling, views_of

OPERATORS = {torch.ops.dcnify.dcnv4.default: False, torch.ops.dcnify.dcnv3.default: True}
"""The operators, and whether they take a softmax unless told otherwise."""
Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Samples:
    """Where one layer sampled in one image. Places are (x, y) in pixels of the model's input.

    A cell of a layer's grid stands in the middle of the pixels that it covers, as if the cells
    tiled the image.
    """

    path: str
    sampling: Sampling
    grid: Size
    """Rows and columns of the layer's input."""
    places: Tensor
    """(Ho, Wo, G, K, 2)."""
    weights: Tensor
    """(Ho, Wo, G, K), after the softmax if there is one; 0 where a point lies outside."""
    queries: Tensor
    """(Ho, Wo, 2): where a layer without offsets would have the middle of its points."""

    @property
    def distances(self) -> Tensor:
        """(Ho, Wo, G, K) from each point to its query, in pixels of the input."""
        return (self.places - self.queries[:, :, None, None]).norm(dim=-1)

    def reach(self, *shares: float) -> tuple[float, ...]:
        """Distances within which these shares of all weight lie, whatever its sign."""
        distances, order = self.distances.flatten().sort()
        weight = self.weights.abs().flatten()[order].cumsum(0)
        if not len(weight) or not weight[-1] > 0:
            return (0.0,) * len(shares)
        wanted = torch.tensor(shares, dtype=weight.dtype) * weight[-1]
        found = torch.searchsorted(weight, wanted).clamp(max=len(weight) - 1)
        return tuple(distances[found].tolist())

    def query_at(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the query nearest to a place in the image, in pixels."""
        squares = (self.queries - torch.tensor((x, y), dtype=self.queries.dtype)).square().sum(-1)
        return divmod(int(squares.argmin()), squares.shape[1])


def trace(model: nn.Module, call: Example, sites: Sequence[str] = ()) -> dict[str, Samples]:
    """Call a model with one image and return where each deformable layer sampled.

    Args:
        model: in evaluation mode.
        call: with a single image.
        sites: paths under which layers are known; others go by that of the innermost module. Of a
            layer that runs more than once the first run counts.

    Returns:
        By path, in the order in which they ran.
    """
    size = call.shape[2], call.shape[3]
    with _modules_of(model) as running, torch.no_grad():
        record = _Record(running, frozenset(sites), size)
        with record:
            call.call(model)
    return record.found


@contextmanager
def _modules_of(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Size | None]]]:
    """The modules that are running, innermost last, with the size of the input of adapters."""
    running: list[tuple[str, nn.Module, Size | None]] = []
    handles = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            size = None
            if isinstance(module, DepthwiseDCNv4):
                _, _, height, width = tensor_given(args, kwargs).shape
                size = (height, width)
            running.append((name, module, size))

        return hook

    def leave(*_: Any) -> None:
        running.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


class _Record(TorchDispatchMode):
    """Sees each call of an operator with the very tensors that it computes from."""

    def __init__(self, running: list, sites: frozenset[str], size: Size) -> None:
        super().__init__()
        self.running, self.sites, self.size = running, sites, size
        self.found: dict[str, Samples] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in OPERATORS:
            sampling = Sampling.of(**{"softmax": OPERATORS[func], **kwargs})
            self._keep(sampling, *args)
        return func(*args, **kwargs)

    def _keep(self, sampling: Sampling, value: Tensor, *points: Tensor) -> None:
        names = [name for name, _, _ in self.running]
        path = next((name for name in reversed(names) if name in self.sites), names[-1])
        if path in self.found:
            return
        top, left, (rows, columns) = 0, 0, value.shape[1:3]
        for _, module, size in self.running:
            if size is not None and isinstance(module, DepthwiseDCNv4):
                (rows, columns), sides = size, module.sides(*size)
                top, left = (sides[0], sides[2]) if sides else (0, 0)
        x, y, weights = located(value, points, sampling)
        to_image = _to_image((rows, columns), (top, left), self.size)
        first, stride = sampling.first_center, sampling.stride
        row = first[0] + torch.arange(x.shape[0], dtype=x.dtype)[:, None] * stride[0]
        column = first[1] + torch.arange(x.shape[1], dtype=x.dtype)[None, :] * stride[1]
        self.found[path] = Samples(
            path=path,
            sampling=sampling,
            grid=(rows, columns),
            places=to_image(x, y),
            weights=weights,
            queries=to_image(*torch.broadcast_tensors(column, row)),
        )


def located(
    value: Tensor, points: Sequence[Tensor], how: Sampling
) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and weight (Ho, Wo, G, K) of the first image's points, in pixels of ``value``.

    `dcnify.ops.reference.dcnv4` defines them. The weight of a rejected point is 0.
    """
    offsets, weights = (one[0].double() for one in views_of(points, how))
    if how.softmax:
        weights = weights.softmax(-1)
    offsets = offsets.unflatten(-1, (-1, 2))
    i, j = torch.tensor(how.points, dtype=offsets.dtype).unbind(-1)
    s, (half_h, half_w), (dil_h, dil_w) = how.offset_scale, how.half, how.dilation
    rows, columns = (torch.arange(n, dtype=offsets.dtype) for n in offsets.shape[:2])
    row = how.first_center[0] + rows[:, None, None, None] * how.stride[0]
    column = how.first_center[1] + columns[:, None, None] * how.stride[1]
    x = column - half_w * s + (i * dil_w + offsets[..., 0]) * s
    y = row - half_h * s + (j * dil_h + offsets[..., 1]) * s
    height, width = value.shape[1:3]
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    return x, y, weights.where(inside, 0)


def _to_image(grid: Size, before: Size, image: Size) -> Any:
    """What takes x and y in an operator's input to places (..., 2) in the image."""
    across, down = image[1] / grid[1], image[0] / grid[0]

    def to_image(x: Tensor, y: Tensor) -> Tensor:
        placed = (x - before[1] + 0.5) * across - 0.5, (y - before[0] + 0.5) * down - 0.5
        return torch.stack(placed, dim=-1)

    return to_image
