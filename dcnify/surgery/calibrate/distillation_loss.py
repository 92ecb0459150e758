"""Distillation loss: how far a converted model is from the original, at its layers and output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from dcnify.graph.calls import RecordedCall, output_tensor, record_calls
from dcnify.graph.example import Example
from dcnify.inherit.distance import are_logits, kl_divergence, relative_error
from dcnify.inherit.precision import wide

TEMPERATURE = 2.0
_CLOSE, _HALVINGS = 1e-3, 5


class DistillationLoss:
    """How far ``model`` is from ``original`` on images.

    Args:
        model: with its new layers in place.
        original: a copy of the model from before.
        swapped: paths of the layers whose outputs are to agree.
        at_most: by path, the largest relative square error that a new layer may have on the old
            layer's inputs.
        example: how both are called; its images are replaced.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        swapped: Sequence[str],
        at_most: Mapping[str, float],
        example: Example,
    ) -> None:
        self.model, self.original, self.swapped = model, original, swapped
        self.at_most, self.example = at_most, example

    def terms(self, images: Tensor) -> Iterator[Tensor]:
        """Yield terms that sum to the loss: one for each layer on its own, one for the model.

        Backpropagate through each term before asking for the next, so that only one term's
        activations are held.
        """
        with torch.no_grad():
            wanted, old = self._run(self.original, images)
        outputs = {path: call.output for path, call in old.items()}
        while old:
            path, call = old.popitem()
            # The closer a layer is already, the larger its weight.
            weight = 1 / min(1.0, max(self.at_most.get(path, 1.0), _CLOSE))
            yield self._layer_error(path, call) * weight / len(outputs)
            del call
        given, new = self._run(self.model, images)
        in_place = [
            relative_error(new[path].output, outputs[path]) for path in outputs if path in new
        ]
        yield self._output_error(given, wanted) + _mean(in_place)

    @torch.no_grad()
    def at_output(self, batches: Sequence[Tensor]) -> float:
        """The output's part of the loss, averaged over batches of images."""
        total = 0.0
        for batch in batches:
            wanted, given = (self._output(one, batch) for one in (self.original, self.model))
            total += float(self._output_error(given.double(), wanted.double())) * len(batch)
        return total / max(1, sum(map(len, batches)))

    @torch.no_grad()
    def limit_layer_errors(
        self, batches: Sequence[Tensor], ends: Mapping[int, tuple[Tensor, Tensor]]
    ) -> None:
        """Move every layer whose error exceeds ``at_most`` back towards its first state.

        The error is measured on the old layer's inputs, so that it depends on that layer alone.

        Args:
            batches: images to measure on.
            ends: by id of a parameter, its value in the first state and in the present one.
        """
        layers = {path: _Interpolation(self._ends_of(path, ends)) for path in self.at_most}
        for _ in range(_HALVINGS):
            open_ones = [path for path, layer in layers.items() if not layer.settled]
            for path, error in self._layer_errors(open_ones, batches).items():
                layers[path].bisect(error <= self.at_most[path])
        for layer in layers.values():
            layer.settle()

    def _ends_of(self, path: str, ends: Mapping[int, tuple[Tensor, Tensor]]) -> list[_Ends]:
        layer = self.model.get_submodule(path)
        return [(p, *ends[id(p)]) for p in layer.parameters() if id(p) in ends]

    def _output_error(self, given: Tensor, wanted: Tensor) -> Tensor:
        """The divergence of logits; the relative square error of any other output."""
        if not are_logits(wanted, self.original):
            return relative_error(given, wanted)
        return kl_divergence(given, wanted, TEMPERATURE)

    def _layer_errors(self, paths: Sequence[str], batches: Sequence[Tensor]) -> dict[str, float]:
        """The error of each layer that runs, on the old layer's inputs."""
        found: dict[str, list[Tensor]] = {}
        for batch in batches if paths else ():
            for path, call in self._run(self.original, batch, paths)[1].items():
                found.setdefault(path, []).append(self._layer_error(path, call))
        return {path: float(_mean(errors)) for path, errors in found.items()}

    def _layer_error(self, path: str, call: RecordedCall) -> Tensor:
        return relative_error(call.on(self.model.get_submodule(path)), call.output)

    def _output(self, model: nn.Module, images: Tensor) -> Tensor:
        return output_tensor(self.example.with_image(images).call(model))

    def _run(
        self, model: nn.Module, images: Tensor, paths: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, RecordedCall]]:
        calls: dict[str, RecordedCall] = {}
        with ExitStack() as hooks:
            for path in self.swapped if paths is None else paths:
                hooks.callback(record_calls(model.get_submodule(path), path, calls).remove)
            output = self._output(model, images)
        return wide(output), calls


def _mean(errors: Sequence[Tensor]) -> Tensor:
    """The mean, or 0 where no image reached a swapped layer."""
    return torch.stack(tuple(errors)).mean() if errors else torch.zeros(())


_Ends = tuple[nn.Parameter, Tensor, Tensor]
"""A parameter, its first value and its last."""


class _Interpolation:
    """How far a layer may go from its first state, at 0, to its last, at 1, by bisection."""

    def __init__(self, ends: Sequence[_Ends]) -> None:
        self._ends = ends
        self._low, self._high, self._share = 0.0, 1.0, 1.0

    @property
    def settled(self) -> bool:
        return self._low == 1.0

    def bisect(self, good: bool) -> None:
        """Narrow the range by whether the present state is good, and go to its middle."""
        if good:
            self._low = self._share
        else:
            self._high = self._share
        if not self.settled:
            self._go_to((self._low + self._high) / 2)

    def settle(self) -> None:
        """Go to the farthest state that was good."""
        self._go_to(self._low)

    def _go_to(self, share: float) -> None:
        self._share = share
        for parameter, first, last in self._ends:
            parameter.copy_(last if share == 1 else first.lerp(last, share) if share else first)
