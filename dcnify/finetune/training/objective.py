"""What a step of fine-tuning minimises: labels, the original's logits, its features, its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.calls import RecordedCall, output_tensor, record_calls
from dcnify.graph.example import Example, example_with
from dcnify.inherit.distance import are_logits, kl_divergence, wide
from dcnify.nn import Handover

if TYPE_CHECKING:
    from dcnify.recipe.finetune.section import Losses


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
        over_processes: takes a tensor to its mean over all processes, each of which has its share
            of a batch. A relative error is a ratio, and the mean of ratios is not the ratio of
            means: so the sizes that errors are relative to are those of the whole batch.
        example: how both models are called; by default with images alone.

    Shapes:
        images (B, C, H, W) and labels (B,), or (B, classes) where they are mixed, to the loss and,
        by name, the terms that it is the weighted sum of. Without labels to the model's output.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module | None,
        sites: Mapping[str, str],
        losses: Losses,
        of_labels: Callable[[Tensor, Tensor], Tensor],
        over_processes: Callable[[Tensor], Tensor] = lambda mean: mean,
        example: Example | None = None,
    ) -> None:
        super().__init__()
        self._example = example
        self.model = model
        self.losses, self.of_labels, self.sites = losses, of_labels, dict(sites)
        self._over_processes = over_processes
        self._original = (original,)  # in a tuple: not one of our modules
        self._mine: dict[str, RecordedCall] = {}
        self._theirs: dict[str, RecordedCall] = {}
        self._watching = False
        self._hooks: list[Any] = []
        if original is not None and (losses.features or losses.layers):
            self._watch(original, self.sites, self._theirs)
            if losses.features:
                self._watch(model, self.sites.values(), self._mine)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        call = example_with(images, self._example)
        if labels is None:
            return call.call(self.model)
        losses, original = self.losses, self._original[0]
        wanted: Any = None
        output: Any = None
        with self._watched():
            if original is not None and (losses.logits or losses.features or losses.layers):
                with torch.no_grad():
                    wanted = output_tensor(call.call(original))
            if losses.labels or losses.logits or losses.features:
                output = output_tensor(call.call(self.model))
        sizes = self._sizes(wanted)
        terms: dict[str, Tensor] = {}
        if losses.labels:
            terms["labels"] = self.of_labels(output, labels)
        if losses.logits:
            terms["logits"] = self._logits(output, wanted, sizes)
        if losses.features:
            terms["features"] = self._features(sizes)
        if losses.layers:
            terms["layers"] = self._layers(sizes)
        self._mine.clear()
        self._theirs.clear()
        total = sum(getattr(losses, name) * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    def release(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def _sizes(self, wanted: Tensor | None) -> dict[str, Tensor]:
        """Mean squares of what the original makes, by site, and of its output under ``""``."""
        made = {there: call.output for there, call in self._theirs.items()}
        original = self._original[0]
        if wanted is not None and original is not None and not are_logits(wanted, original):
            made[""] = wanted
        if not made:
            return {}
        sizes = torch.stack([wide(one).square().mean() for one in made.values()])
        return dict(zip(made, self._over_processes(sizes).clamp_min(1e-12), strict=True))

    def _logits(self, output: Tensor, wanted: Tensor, sizes: dict[str, Tensor]) -> Tensor:
        if "" not in sizes:
            return kl_divergence(output.float(), wanted.float(), self.losses.temperature)
        return _apart(output, wanted, sizes[""])

    def _features(self, sizes: dict[str, Tensor]) -> Tensor:
        """At each swapped layer in its place."""
        return _mean(
            _apart(self._mine[here].output, self._theirs[there].output, sizes[there])
            for there, here in self.sites.items()
            if there in self._theirs and here in self._mine
        )

    def _layers(self, sizes: dict[str, Tensor]) -> Tensor:
        """Of each new layer, given what the old one is given."""
        errors = []
        for there, call in self._theirs.items():
            layer = self.model.get_submodule(self.sites[there])
            layer = layer.new if isinstance(layer, Handover) else layer
            errors.append(_apart(call.on(layer), call.output, sizes[there]))
        return _mean(errors)

    def _watch(
        self, model: nn.Module, paths: Iterable[str], calls: dict[str, RecordedCall]
    ) -> None:
        for path in paths:
            try:
                layer = model.get_submodule(path)
            except AttributeError:
                raise InputError(
                    f"the original has no layer {path}: give the model that was converted"
                ) from None
            # Not when activations are recomputed in the backward pass.
            self._hooks.append(record_calls(layer, path, calls, lambda: self._watching))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watching = True
        try:
            yield
        finally:
            self._watching = False


def _apart(given: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    return (wide(given) - wide(wanted)).square().mean() / size


def _mean(errors: Any) -> Tensor:
    some = list(errors)
    if not some:
        raise InputError("no image came to a swapped layer: nothing to learn there")
    return torch.stack(some).mean()
