"""A trial: what layers and channels err counts by how much the output heeds it.

How much that is, is the diagonal of the Fisher information at the old layers' outputs: the mean
square of the gradient of the logarithm of a class's probability, the class drawn from what the
original says. Small errors that do not depend on each other raise the divergence at the output by
half the sum of their squares, weighed by that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.inherit import calibrate as in_turns
from dcnify.inherit.train_layer import train_layer
from dcnify.surgery.calibrate import calibration_steps
from dcnify.surgery.calibrate import train_whole_model as together
from dcnify.surgery.calibrate.distillation_loss import _CLOSE, TEMPERATURE, DistillationLoss, _mean
from dcnify.surgery.calibrate.mixed_batches import batches_of


@dataclass(frozen=True)
class _Heed:
    """Of a layer's output (B, C, H, W), means over images and pixels."""

    squares: Tensor
    """(C,) of the gradients."""
    power: Tensor
    """(C,) of the output."""
    pixels: int

    @property
    def worth(self) -> Tensor:
        """What errors as large as the output would do."""
        return self.pixels * (self.squares * self.power).sum()


@contextmanager
def weighed(
    *, layers: bool = False, channels: bool = False, single: bool = False
) -> Iterator[None]:
    """Weigh ``layers`` and ``channels`` of them where the whole model learns.

    ``single``: weigh channels where each layer is taught by itself, too.
    """
    learn, calibrate = calibration_steps.train_whole_model, calibration_steps.calibrate_layers

    def learn_weighed(
        model: nn.Module,
        original: nn.Module,
        swapped: Sequence[str],
        batches: Sequence[Tensor],
        *rest: Any,
        **options: Any,
    ) -> tuple[float, float]:
        heeds = heeded(original, swapped, batches)
        mean = _mean([heed.worth for heed in heeds.values()])
        weights = {}
        for path, heed in heeds.items():
            shares = heed.squares if channels else torch.ones_like(heed.squares)
            level = heed.worth / mean if layers else 1.0
            weights[path] = level * shares / (shares * heed.power).sum()
        with mock.patch.object(together, "DistillationLoss", functools.partial(_Weighed, weights)):
            return learn(model, original, swapped, batches, *rest, **options)

    def calibrate_weighed(
        model: nn.Module, plan: Any, fresh: Any, examples: Sequence[Any], *rest: Any
    ) -> Any:
        heeds = heeded(
            model, [swap.site.path for swap in plan.swaps], [one.images for one in examples]
        )
        scales = {model.get_submodule(path): heed.squares.sqrt() for path, heed in heeds.items()}
        with mock.patch.object(in_turns, "train_layer", functools.partial(_teach_weighed, scales)):
            return calibrate(model, plan, fresh, examples, *rest)

    with (
        mock.patch.object(
            calibration_steps, "train_whole_model", learn_weighed if layers or channels else learn
        ),
        mock.patch.object(
            calibration_steps, "calibrate_layers", calibrate_weighed if single else calibrate
        ),
    ):
        yield


@torch.enable_grad()
def heeded(model: nn.Module, paths: Sequence[str], batches: Sequence[Tensor]) -> dict[str, _Heed]:
    """How much the classes that ``model`` sees heed its layers at ``paths``."""
    sums: dict[str, list[Tensor]] = {path: [] for path in paths}
    powers: dict[str, list[Tensor]] = {path: [] for path in paths}
    pixels: dict[str, int] = {}
    outputs: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda _module, _args, output, path=path: outputs.__setitem__(path, output)
        )
        for path in paths
    ]
    generator = torch.Generator().manual_seed(0)
    try:
        for images in batches_of([image for batch in batches for image in batch]):
            said = F.log_softmax(model(images.requires_grad_()) / TEMPERATURE, 1)
            drawn = torch.multinomial(said.detach().exp(), 1, generator=generator)
            # Times the temperature, as is the lesson's divergence its square.
            surprise = TEMPERATURE * said.gather(1, drawn).sum()
            gradients = torch.autograd.grad(surprise, [outputs[path] for path in paths])
            for path, gradient in zip(paths, gradients, strict=True):
                output = outputs[path].detach()
                pixels[path] = output[0, 0].numel()
                sums[path] += gradient.square().mean((2, 3)).unbind()
                powers[path] += output.square().mean((2, 3)).unbind()
    finally:
        for hook in hooks:
            hook.remove()
    return {
        path: _Heed(
            torch.stack(sums[path]).mean(0), torch.stack(powers[path]).mean(0), pixels[path]
        )
        for path in paths
    }


class _Weighed(DistillationLoss):
    """The layers' errors are weighed by ``weights`` (C,), by path, in what is learned from."""

    def __init__(self, weights: Mapping[str, Tensor], *lesson: Any) -> None:
        super().__init__(*lesson)
        self._weights = weights

    def terms(self, images: Tensor) -> Iterator[Tensor]:
        with torch.no_grad():
            wanted, old = self._run(self.original, images)
        given, new = self._run(self.model, images)
        here = [self._weigh(path, new[path].output, old[path].output) for path in old]
        alone = [
            self._weigh(path, call.on(self.model.get_submodule(path)), call.output)
            / min(1.0, max(self.at_most.get(path, 1.0), _CLOSE))
            for path, call in old.items()
        ]
        yield self._output_error(given, wanted) + _mean(here) + _mean(alone)

    def _weigh(self, path: str, given: Tensor, wanted: Tensor) -> Tensor:
        return (given - wanted).square().mean((0, 2, 3)) @ self._weights[path]


class _Scaled(nn.Module):
    def __init__(self, layer: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.layer, self._scale = layer, scale[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self._scale


def _teach_weighed(
    scales: Mapping[nn.Module, Tensor],
    module: nn.Module,
    parameters: Sequence[nn.Parameter],
    old: nn.Module,
    *rest: Any,
) -> tuple[float, float]:
    scale = scales[old]
    return train_layer(_Scaled(module, scale), parameters, _Scaled(old, scale), *rest)
