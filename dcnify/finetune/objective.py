"""What a step of fine-tuning minimises: labels, the original's logits, its features, its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.nn import Handover
from dcnify.surgery.calls import Call, remembered
from dcnify.surgery.distance import are_logits, relative_error, surprise
from dcnify.surgery.fidelity import comparable, first_tensor

if TYPE_CHECKING:
    from dcnify.recipe.finetune import Losses


class Objective(nn.Module):
    """The model that is trained, and how far it is from what it should say.

    A module, so that distributed wrappers see every use of a parameter as part of one forward
    pass. The original is kept out of its state and its parameters.

    Args:
        model: what is trained. Hooks are set on it; `release` takes them away.
        original: the model from before the conversion, or None where ``losses`` need none.
        sites: paths of the swapped layers, by their paths in the original.
        losses: weights of the terms.
        of_labels: takes logits and labels to a scalar.

    Shapes:
        images (B, C, H, W) and labels (B,), or (B, classes) where they are mixed, to the loss and,
        by name, the terms that it is the weighted sum of.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module | None,
        sites: Mapping[str, str],
        losses: Losses,
        of_labels: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.model = model
        self.losses, self.of_labels, self.sites = losses, of_labels, dict(sites)
        self._original = (original,)  # in a tuple: not one of our modules
        self._mine: dict[str, Call] = {}
        self._theirs: dict[str, Call] = {}
        self._watching = False
        self._hooks: list[Any] = []
        if original is not None and (losses.features or losses.layers):
            self._watch(original, self.sites, self._theirs)
            if losses.features:
                self._watch(model, self.sites.values(), self._mine)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        losses, original = self.losses, self._original[0]
        wanted = None
        with self._watched():
            if original is not None and (losses.logits or losses.features or losses.layers):
                with torch.no_grad():
                    wanted = comparable(original(images))
            needs_output = losses.labels or losses.logits or losses.features
            output = comparable(self.model(images)) if needs_output else None
        terms: dict[str, Tensor] = {}
        if losses.labels:
            terms["labels"] = self.of_labels(output, labels)
        if losses.logits:
            terms["logits"] = self._logits(output, wanted)
        if losses.features:
            terms["features"] = self._features()
        if losses.layers:
            terms["layers"] = self._layers()
        self._mine.clear()
        self._theirs.clear()
        total = sum(getattr(losses, name) * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    def release(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _logits(self, output: Tensor, wanted: Tensor) -> Tensor:
        if are_logits(wanted, self._original[0]):
            return surprise(output.float(), wanted.float(), self.losses.temperature)
        return relative_error(output, wanted)

    def _features(self) -> Tensor:
        """At each swapped layer in its place."""
        return _mean(
            relative_error(self._mine[here].output, self._theirs[there].output)
            for there, here in self.sites.items()
            if there in self._theirs and here in self._mine
        )

    def _layers(self) -> Tensor:
        """Of each new layer, given what the old one is given."""
        errors = []
        for there, call in self._theirs.items():
            layer = self.model.get_submodule(self.sites[there])
            layer = layer.new if isinstance(layer, Handover) else layer
            given = first_tensor(layer(*call.args, **call.kwargs))
            errors.append(relative_error(given, call.output))
        return _mean(errors)

    def _watch(self, model: nn.Module, paths: Sequence[str], calls: dict[str, Call]) -> None:
        for path in paths:
            try:
                layer = model.get_submodule(path)
            except AttributeError:
                raise InputError(
                    f"the original has no layer {path}: give the model that was converted"
                ) from None
            # Not when activations are recomputed in the backward pass.
            self._hooks.append(remembered(layer, path, calls, lambda: self._watching))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False


def _mean(errors: Any) -> Tensor:
    some = list(errors)
    if not some:
        raise InputError("no image came to a swapped layer: nothing to learn there")
    return torch.stack(some).mean()
