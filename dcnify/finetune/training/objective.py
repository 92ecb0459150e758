"""The losses of a stage: on labels, and on the original's logits, features and layers."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.calls import RecordedCall, output_tensor, record_calls
from dcnify.graph.example import Example, example_with
from dcnify.inherit.distance import are_logits, kl_divergence, wide
from dcnify.nn import DepthwiseDCNv4, Handover
from dcnify.nn.depthwise import as_original
from dcnify.recipe.finetune.training import Losses

_OUTPUT = ""
"""Stands for the model among paths of layers."""


class Objective(nn.Module):
    """A model with its loss.

    A module, so that distributed wrappers see every use of a parameter as part of one forward
    pass. The original is not part of its state or parameters.

    Args:
        model: the model in training. `release` removes the hooks that are set on it.
        original: the model from before the conversion, or None if ``losses`` need none.
        swapped: paths of the swapped layers, in both models.
        losses: weights of the terms.
        label_loss: maps logits and labels to a scalar.
        mean_over_processes: maps a tensor to its mean over all processes. A relative error is a
            ratio, and the mean of ratios is not the ratio of means: so the sizes that errors are
            relative to are those of the whole batch.
        example: how both models are called; by default with images alone.

    Shapes:
        images (B, C, H, W) and labels (B,), or (B, classes) if they are mixed, to the loss and,
        by name, its terms before weighting. Without labels to the model's output.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module | None,
        swapped: Iterable[str],
        losses: Losses,
        label_loss: Callable[[Tensor, Tensor], Tensor],
        mean_over_processes: Callable[[Tensor], Tensor] = lambda mean: mean,
        example: Example | None = None,
    ) -> None:
        super().__init__()
        self._example = example
        self.model = model
        self.swapped = tuple(swapped)
        self._losses, self._label_loss, self._mean = losses, label_loss, mean_over_processes
        self._original = (original,)  # in a tuple, so that it is not a submodule
        self._own: dict[str, RecordedCall] = {}
        self._wanted: dict[str, RecordedCall] = {}
        self._recording = False
        self._hooks: list[Any] = []
        if original is not None and (losses.features or losses.layers):
            self._record(original, self._wanted)
            if losses.features:
                self._record(model, self._own)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        call = example_with(images, self._example)
        if labels is None:
            return call.call(self.model)
        losses, original = self._losses, self._original[0]
        output: Any = None
        wanted: Any = None
        self._recording = True
        try:
            if original is not None and (losses.logits or losses.features or losses.layers):
                with torch.no_grad():
                    wanted = output_tensor(call.call(original))
            if losses.labels or losses.logits or losses.features:
                output = output_tensor(call.call(self.model))
        finally:
            self._recording = False
        sizes = self._sizes(wanted)
        terms: dict[str, Tensor] = {}
        if losses.labels:
            terms["labels"] = self._label_loss(output, labels)
        if losses.logits and _OUTPUT in sizes:
            terms["logits"] = _relative_error(output, wanted, sizes[_OUTPUT])
        elif losses.logits:
            terms["logits"] = kl_divergence(output.float(), wanted.float(), losses.temperature)
        if losses.features:
            terms["features"] = self._feature_loss(sizes)
        if losses.layers:
            terms["layers"] = self._layer_loss(sizes)
        self._own.clear()
        self._wanted.clear()
        total = sum(getattr(losses, name) * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}

    def release(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def _sizes(self, wanted: Tensor | None) -> dict[str, Tensor]:
        """Return the mean squares of the original's layers, and of its output if not logits."""
        outputs = {path: call.output for path, call in self._wanted.items()}
        original = self._original[0]
        if wanted is not None and original is not None and not are_logits(wanted, original):
            outputs[_OUTPUT] = wanted
        if not outputs:
            return {}
        sizes = torch.stack([wide(one).square().mean() for one in outputs.values()])
        return dict(zip(outputs, self._mean(sizes).clamp_min(1e-12), strict=True))

    def _feature_loss(self, sizes: dict[str, Tensor]) -> Tensor:
        """Compare the swapped layers where they are, each in its own model."""
        return _mean_of(
            _relative_error(self._comparable(path), self._wanted[path].output, sizes[path])
            for path in self.swapped
            if path in self._wanted and path in self._own
        )

    def _comparable(self, path: str) -> Tensor:
        """The output of a layer with its channels as the original has them."""
        layer, output = self.model.get_submodule(path), self._own[path].output
        return layer.restored(output) if isinstance(layer, DepthwiseDCNv4) else output

    def _layer_loss(self, sizes: dict[str, Tensor]) -> Tensor:
        """Compare each swapped layer alone, on the input of the original layer."""
        errors = []
        for path, call in self._wanted.items():
            layer = self.model.get_submodule(path)
            layer = layer.new if isinstance(layer, Handover) else layer
            errors.append(_relative_error(call.on(as_original(layer)), call.output, sizes[path]))
        return _mean_of(errors)

    def _record(self, model: nn.Module, calls: dict[str, RecordedCall]) -> None:
        for path in self.swapped:
            try:
                layer = model.get_submodule(path)
            except AttributeError:
                raise InputError(
                    f"the original has no layer {path}: give the model that was converted"
                ) from None
            # Not when activations are recomputed in the backward pass.
            self._hooks.append(record_calls(layer, path, calls, lambda: self._recording))


def _relative_error(given: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    return (wide(given) - wide(wanted)).square().mean() / size


def _mean_of(errors: Iterable[Tensor]) -> Tensor:
    some = list(errors)
    if not some:
        raise InputError("no image came to a swapped layer: nothing to learn there")
    return torch.stack(some).mean()
