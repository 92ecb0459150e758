"""What the original model says of images, and how far the converted one is from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from dcnify.graph.calls import RecordedCall, output_tensor, record_calls
from dcnify.inherit.distance import are_logits, relative_error, surprise
from dcnify.inherit.precision import wide

TEMPERATURE = 2.0
_CLOSE, _HALVINGS = 1e-3, 5


class Lesson:
    """What ``original`` says of images, and how far ``model`` is from it.

    Args:
        model: with its new layers in place.
        original: a copy of the model from before.
        swapped: paths of the layers whose outputs are to agree.
        at_most: by path, the error that a new layer may have when it is given what the old one is
            given: its square over the square of the old layer's output.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        swapped: Sequence[str],
        at_most: Mapping[str, float],
    ) -> None:
        self.model, self.original, self.swapped = model, original, swapped
        self.at_most = at_most

    def terms(self, images: Tensor) -> Iterator[Tensor]:
        """The loss, in terms that add up: of each layer given what the old one is, and of the rest.

        Go back through a term before the next is asked for, and only one's activations are held.
        """
        with torch.no_grad():
            wanted, old = self._run(self.original, images)
        outputs = {path: call.output for path, call in old.items()}
        while old:
            path, call = old.popitem()
            # A layer that is close already is held more tightly, by as much as it is closer.
            tightly = 1 / min(1.0, max(self.at_most.get(path, 1.0), _CLOSE))
            yield self._alone(path, call) * tightly / len(outputs)
            del call
        given, new = self._run(self.model, images)
        here = [relative_error(new[path].output, outputs[path]) for path in outputs if path in new]
        yield self._apart(given, wanted) + _mean(here)

    @torch.no_grad()
    def at_output(self, batches: Sequence[Tensor]) -> float:
        """The output's part of the loss, on some images."""
        total = 0.0
        for batch in batches:
            wanted, given = (output_tensor(model(batch)) for model in (self.original, self.model))
            total += float(self._apart(given.double(), wanted.double())) * len(batch)
        return total / max(1, sum(map(len, batches)))

    @torch.no_grad()
    def hold(self, batches: Sequence[Tensor], ends: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Take every layer that errs more than it may back towards its first state.

        Given what the old layer is given, that is; then a layer's error depends on it alone.

        Args:
            batches: images to judge by.
            ends: by id of a parameter, its value in the first state and in the one it is in.
        """
        spans = {path: _Span(self._between(path, ends)) for path in self.at_most}
        for _ in range(_HALVINGS):
            errors = self._errors([path for path in spans if not spans[path].settled], batches)
            for path, error in errors.items():
                spans[path].judge(error <= self.at_most[path])
        for span in spans.values():
            span.settle()

    def _between(self, path: str, ends: Mapping[int, tuple[Tensor, Tensor]]) -> list[_Ends]:
        layer = self.model.get_submodule(path)
        return [(p, *ends[id(p)]) for p in layer.parameters() if id(p) in ends]

    def _apart(self, given: Tensor, wanted: Tensor) -> Tensor:
        """Of logits, how surprised the original is by the model; of all else, the square error."""
        if not are_logits(wanted, self.original):
            return relative_error(given, wanted)
        return surprise(given, wanted, TEMPERATURE)

    def _errors(self, paths: Sequence[str], batches: Sequence[Tensor]) -> dict[str, float]:
        """By layer that the images come to, its error given what the old one is given."""
        found: dict[str, list[Tensor]] = {}
        for batch in batches if paths else ():
            for path, call in self._run(self.original, batch, paths)[1].items():
                found.setdefault(path, []).append(self._alone(path, call))
        return {path: float(_mean(errors)) for path, errors in found.items()}

    def _alone(self, path: str, call: RecordedCall) -> Tensor:
        """The error of the new layer at ``path``, given what the old one was given."""
        layer = self.model.get_submodule(path)
        return relative_error(call.on(layer), call.output)

    def _run(
        self, model: nn.Module, images: Tensor, paths: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, RecordedCall]]:
        calls: dict[str, RecordedCall] = {}
        with ExitStack() as hooks:
            for path in self.swapped if paths is None else paths:
                handle = record_calls(model.get_submodule(path), path, calls)
                hooks.callback(handle.remove)
            output = output_tensor(model(images))
        return wide(output), calls


def _mean(errors: Sequence[Tensor]) -> Tensor:
    """Of none, where no image came to a swapped layer, it is 0."""
    return torch.stack(tuple(errors)).mean() if errors else torch.zeros(())


_Ends = tuple[nn.Parameter, Tensor, Tensor]
"""A parameter, its first value and its last."""


class _Span:
    """How far a layer may go from its first state, at 0, to its last, at 1, by halving."""

    def __init__(self, ends: Sequence[_Ends]) -> None:
        self._ends = ends
        self._low, self._high, self._share = 0.0, 1.0, 1.0

    @property
    def settled(self) -> bool:
        return self._low == 1.0

    def judge(self, good: bool) -> None:
        """Hear whether the layer may be as it is now, and go halfway to what is known of it."""
        if good:
            self._low = self._share
        else:
            self._high = self._share
        if not self.settled:
            self._go((self._low + self._high) / 2)

    def settle(self) -> None:
        """Go as far as was found good."""
        self._go(self._low)

    def _go(self, share: float) -> None:
        self._share = share
        for parameter, first, last in self._ends:
            parameter.copy_(last if share == 1 else first.lerp(last, share) if share else first)
