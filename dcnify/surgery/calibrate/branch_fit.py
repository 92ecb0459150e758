"""Fit the ends of residual branches again, so that they make up for the new layers before them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.graph.example import Example
from dcnify.graph.residual import BranchEnd
from dcnify.surgery.build import get
from dcnify.surgery.calibrate.sensitivity import sensitivities
from dcnify.surgery.changes.refit_linear import divided, refit_linear


class BranchFit:
    """Fits linear layers to what gives the original's sum with the shortcut.

    Args:
        original: a copy of the model from before, which runs beside it.
        ends: the linear layers, and where what they are added to is seen.
        examples: calls of the model; each place counts by how much it matters to the output.
        seed: of the places that are looked at, and of what `sensitivities` draws.
    """

    def __init__(
        self,
        original: nn.Module,
        ends: Iterable[BranchEnd],
        examples: Sequence[Example],
        seed: int = 0,
    ) -> None:
        self.ends = {end.linear: end for end in ends}
        self._readers = {end.reader for end in self.ends.values()}
        self._generator = torch.Generator().manual_seed(seed)
        self._old = {path: get(original, path) for path in self.ends}
        self._scales = {
            path: original.get_parameter(end.scale) for path, end in self.ends.items() if end.scale
        }
        self._weights = sensitivities(original, examples, self.ends, seed)
        self._lacks: dict[str, list[Tensor]] = {}

    @property
    def places(self) -> tuple[str, ...]:
        """Paths where passes have to wait."""
        return tuple(dict.fromkeys((*self._readers, *self.ends)))

    def see(self, path: str, calls: Sequence[Call], originals: Sequence[Call]) -> None:
        """Keep what the shortcut lacks beside the original's, if ``path`` reads one."""
        if path in self._readers:
            pairs = zip(calls, originals, strict=True)
            self._lacks[path] = [theirs.input - mine.input for mine, theirs in pairs]

    @torch.no_grad()
    def fit(self, path: str, linear: Any, calls: Sequence[Call], originals: Sequence[Call]) -> None:
        """Fit ``linear``, which stands at ``path``, in place.

        Args:
            path: one of ``ends``.
            linear: the layer, or one that takes its place.
            calls: its call in each pass through the converted model.
            originals: the same of the original model.
        """
        end, scale = self.ends[path], self._scales.get(path)
        wanted = [call.on(self._old[path]) for call in originals]
        axis = 1 if isinstance(linear, nn.Conv2d) else -1
        for index, lack in enumerate(self._lacks.get(end.reader, ())):
            back = [end.axes.index(place) for place in range(len(end.axes))]
            lack = divided(lack.permute(back), scale, axis)
            wanted[index] = wanted[index] + lack
        inputs, weights = [call.input for call in calls], self._weights.get(path)
        refit_linear(linear, inputs, wanted, self._generator, weights=weights)
