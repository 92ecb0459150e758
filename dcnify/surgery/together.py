"""The converted model as a whole learns from the original, on images without labels.

Layers that were fitted one by one each leave a small error, and the errors add up on their way to
the output. Here the model is trained to give the original's output, and the original's features at
every swapped layer. The original answers for any image, so images are also mixed with each other:
that makes thousands of different ones out of a few (Beyer et al., arXiv 2106.05237, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from dcnify.surgery.fidelity import Progress, comparable, first_tensor

RATE, RATE_OF_OTHERS = 0.02, 0.01
"""Adam's step, relative to the size of a parameter's values: of new layers, of all others."""
TEMPERATURE = 2.0
MIXED = 2 / 3
"""Share of the images that are mixed with another."""
_WARM_UP, _LOOKS = 0.1, 10
_LARGEST, _PIXELS = 32, 8 * 224 * 224
"""Images of a step, and their pixels: the fewer of the two."""
_HELD_OUT = 8
_CLOSE, _HALVINGS = 1e-3, 5


def learn_together(
    model: nn.Module,
    original: nn.Module,
    swapped: Sequence[str],
    batches: Sequence[Tensor],
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
    at_most: Mapping[str, float] | None = None,
    fixed: Iterable[nn.Parameter] = (),
) -> tuple[float, float]:
    """Train ``model`` in place for ``steps`` to do what ``original`` does. Both stay in eval mode.

    Parameters of the layers at ``swapped`` learn, and those of the rest that require gradients.
    One image in eight is left out, and of the states along the way the one is kept whose output is
    closest on those, the first among them. A layer that then errs more than it may goes back, as
    far as it must, to what it was.

    Args:
        model: with its new layers in place.
        original: a copy of the model from before, which is not changed.
        swapped: paths of the layers whose outputs are to agree as well.
        batches: images (B, C, H, W), normalised.
        steps: of the optimisation; 0 changes nothing.
        seed: of the order and the mixing of images.
        progress: hears of every step.
        at_most: by path, how large a new layer's square error may become, over the square of the
            old layer's output, when it is given what the old one is given.
        fixed: parameters that do not learn.

    Returns:
        How far the output is from the original's on the images left out, before and after.
    """
    images = [image for batch in batches for image in batch]
    held = max(1, len(images) // _HELD_OUT) if len(images) > 1 else 0
    unseen = _batches_of(images[len(images) - held :])
    draws = _Draws(images[: len(images) - held], seed)
    with _learning(model, swapped, fixed) as groups, _wide(model), _wide(original):
        lesson = _Lesson(model, original, swapped, at_most or {})
        before = best = lesson.at_output(unseen)
        if steps == 0 or not groups:
            return before, before
        learned = [parameter for group in groups for parameter in group["params"]]
        first = kept = [parameter.detach().clone() for parameter in learned]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step in range(steps):
            with torch.enable_grad():
                loss = lesson.loss(draws.next())
                gradients = torch.autograd.grad(loss, learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, steps // _LOOKS) == 0 or step + 1 == steps:
                now = lesson.at_output(unseen)
                if now < best:
                    best, kept = now, [parameter.detach().clone() for parameter in learned]
            if progress is not None:
                progress("learning from the original", step + 1, steps)
        _set(learned, kept)
        if kept is not first:
            lesson.hold(
                unseen, {id(p): (a, b) for p, a, b in zip(learned, first, kept, strict=True)}
            )
            best = lesson.at_output(unseen)
            if not best < before:
                _set(learned, first)
                best = before
    return before, best


@torch.no_grad()
def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None
        parameter.copy_(value)


class _Lesson:
    """What the original says of images, and how far the model is from it."""

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        swapped: Sequence[str],
        at_most: Mapping[str, float],
    ) -> None:
        self.model, self.original, self.swapped = model, original, swapped
        self.at_most = at_most

    def loss(self, images: Tensor) -> Tensor:
        """At the output, at each new layer in its place, and at each given what the old one is."""
        with torch.no_grad():
            wanted, old = self._run(self.original, images)
        given, new = self._run(self.model, images)
        here = [_relative(new[path].output, old[path].output) for path in old if path in new]
        # A layer that is close already is held more tightly, by as much as it is closer.
        alone = [
            error / min(1.0, max(self.at_most.get(path, 1.0), _CLOSE))
            for path, error in self._alone(old).items()
        ]
        return _apart(given, wanted) + torch.stack(here).mean() + torch.stack(alone).mean()

    @torch.no_grad()
    def at_output(self, batches: Sequence[Tensor]) -> float:
        """The output's part of the loss, on some images."""
        total = 0.0
        for batch in batches:
            wanted, given = (comparable(model(batch)) for model in (self.original, self.model))
            total += float(_apart(given.float(), wanted.float())) * len(batch)
        return total / max(1, sum(map(len, batches)))

    @torch.no_grad()
    def hold(self, batches: Sequence[Tensor], ends: Mapping[int, tuple[Tensor, Tensor]]) -> None:
        """Take every layer that errs more than it may back towards its first state.

        Given what the old layer is given, that is; then a layer's error depends on it alone.

        Args:
            batches: images to judge by.
            ends: by id of a parameter, its value in the first state and in the one it is in.
        """
        for path, most in self.at_most.items():
            layer = self.model.get_submodule(path)
            mine = [(p, *ends[id(p)]) for p in layer.parameters() if id(p) in ends]
            low, high = 0.0, 1.0
            share = high
            for _ in range(_HALVINGS):
                if self._error(path, batches) <= most:
                    low = share
                else:
                    high = share
                if low == 1.0:
                    break
                share = (low + high) / 2
                _between(mine, share)
            _between(mine, low)

    def _error(self, path: str, batches: Sequence[Tensor]) -> float:
        found = [self._alone(self._run(self.original, batch, (path,))[1]) for batch in batches]
        return sum(float(one[path]) for one in found) / max(1, len(found))

    def _alone(self, old: dict[str, _Call]) -> dict[str, Tensor]:
        return {
            path: _relative(
                first_tensor(self.model.get_submodule(path)(*call.args, **call.kwargs)), call.output
            )
            for path, call in old.items()
        }

    def _run(
        self, model: nn.Module, images: Tensor, paths: Sequence[str] | None = None
    ) -> tuple[Tensor, dict[str, _Call]]:
        calls: dict[str, _Call] = {}
        with ExitStack() as hooks:
            for path in self.swapped if paths is None else paths:
                layer = model.get_submodule(path)
                handle = layer.register_forward_hook(_remember(calls, path), with_kwargs=True)
                hooks.callback(handle.remove)
            output = comparable(model(images))
        return output.float(), calls


def _between(ends: Sequence[tuple[nn.Parameter, Tensor, Tensor]], share: float) -> None:
    """Set parameters between their first values, at 0, and their last, at 1."""
    for parameter, first, last in ends:
        parameter.copy_(first if share == 0 else last if share == 1 else first.lerp(last, share))


@dataclass(frozen=True)
class _Call:
    args: tuple
    kwargs: dict[str, Any]
    output: Tensor


def _remember(calls: dict[str, _Call], path: str) -> Any:
    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        calls[path] = _Call(args, kwargs, first_tensor(output))

    return hook


def _apart(given: Tensor, wanted: Tensor) -> Tensor:
    """Of logits, how surprised the original is by the model; of anything else, the square error."""
    if wanted.dim() != 2 or wanted.shape[1] < 2:
        return _relative(given, wanted)
    soft = F.log_softmax(given / TEMPERATURE, 1)
    hard = F.log_softmax(wanted / TEMPERATURE, 1)
    return TEMPERATURE**2 * F.kl_div(soft, hard, reduction="batchmean", log_target=True)


def _relative(given: Tensor, wanted: Tensor) -> Tensor:
    wanted = wanted.float()
    return (given.float() - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


@contextmanager
def _learning(
    model: nn.Module, swapped: Sequence[str], fixed: Iterable[nn.Parameter]
) -> Iterator[list[dict[str, Any]]]:
    """Let what learns require gradients; yields one group of Adam's for each parameter."""
    stays = {id(parameter) for parameter in fixed}
    new = tuple(f"{path}." for path in swapped)
    every = list(model.named_parameters())
    before = [(parameter, parameter.requires_grad) for _, parameter in every]
    learned = [
        (name.startswith(new), parameter)
        for name, parameter in every
        if parameter.is_floating_point()
        and id(parameter) not in stays
        and (name.startswith(new) or parameter.requires_grad)
    ]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for _, parameter in learned:
        parameter.requires_grad_(True)
    try:
        yield [
            {"params": [parameter], "lr": _size(parameter) * (RATE if fresh else RATE_OF_OTHERS)}
            for fresh, parameter in learned
        ]
    finally:
        for parameter, wanted in before:
            parameter.grad = None
            parameter.requires_grad_(wanted)


def _size(parameter: Tensor) -> float:
    """The size of its values, or what a linear layer's would be where they are smaller."""
    fan = max(1, parameter[0].numel()) if parameter.dim() > 1 else len(parameter)
    return max(float(parameter.detach().float().square().mean().sqrt()), fan**-0.5)


@contextmanager
def _wide(model: nn.Module) -> Iterator[None]:
    """In float32 for a while: the steps are smaller than half precision can tell apart."""
    narrow = [
        (tensor, tensor.dtype)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in (torch.float16, torch.bfloat16)
    ]
    for tensor, _ in narrow:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in narrow:
            tensor.data = tensor.data.to(dtype)


def _batches_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Images (C, H, W) of one size together, as many as a step takes, in float32."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    return [
        torch.stack(some[start : start + room]).float()
        for shape, some in by_shape.items()
        for room in [_room(shape)]
        for start in range(0, len(some), room)
    ]


def _room(shape: torch.Size) -> int:
    return max(2, min(_LARGEST, _PIXELS // (shape[-1] * shape[-2])))


class _Draws:
    """Batches without end: images in random order, many of them mixed with another."""

    def __init__(self, images: Sequence[Tensor], seed: int) -> None:
        self._images = images
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[Tensor] = []
        self._mix = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, prob=MIXED, mode="elem", num_classes=1)
        self._mixing = np.random.RandomState(seed % 2**32).get_state()

    def next(self) -> Tensor:
        if not self._queue:
            order = torch.randperm(len(self._images), generator=self._generator)
            self._queue = _batches_of([self._images[index] for index in order])
            self._queue = self._queue[:-1] if len(self._queue) > 1 else self._queue
        batch = self._queue.pop()
        even = len(batch) // 2 * 2
        if even:
            with self._numpy():
                unused = torch.zeros(even, dtype=torch.long, device=batch.device)
                self._mix(batch[:even], unused)
        return batch

    @contextmanager
    def _numpy(self) -> Iterator[None]:
        """timm mixes by NumPy's global random state, which is the caller's."""
        theirs = np.random.get_state()
        np.random.set_state(self._mixing)
        try:
            yield
        finally:
            self._mixing = np.random.get_state()
            np.random.set_state(theirs)
