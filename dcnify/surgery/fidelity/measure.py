"""Fidelity of a converted model: per site on the original's activations, and at the output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify.errors import DcnifyError
from dcnify.graph.calls import Call, first_tensor, output_tensor
from dcnify.graph.example import Example
from dcnify.inherit.distance import are_logits
from dcnify.nn.depthwise import as_original
from dcnify.progress import Progress, silent
from dcnify.surgery.fidelity.predictions import kl_divergence, predicted_classes, share_equal
from dcnify.surgery.result import OutputFidelity, SiteFidelity


@dataclass
class Agreement:
    """Running sums of a signal against its approximation."""

    signal: float = 0.0
    error: float = 0.0
    approximation: float = 0.0
    product: float = 0.0

    def add(self, expected: torch.Tensor, seen: torch.Tensor) -> None:
        """Take in one pair of tensors of the same shape."""
        a, b = expected.detach().double().flatten(), seen.detach().double().flatten()
        self.signal += float(a @ a)
        self.approximation += float(b @ b)
        self.product += float(a @ b)
        self.error += float((a - b) @ (a - b))

    @property
    def sqnr_db(self) -> float:
        """10·log10(signal power / error power); infinite when equal, 0 for a zero output."""
        if self.error == 0:
            return math.inf
        ratio = self.signal / self.error
        return -math.inf if ratio == 0 else 10 * math.log10(ratio)

    @property
    def relative_error(self) -> float:
        """Norm of the difference over norm of the signal."""
        if self.error == 0:
            return 0.0
        return math.sqrt(self.error / self.signal) if self.signal else math.inf

    @property
    def cosine(self) -> float:
        scale = math.sqrt(self.signal * self.approximation)
        if scale == 0:
            return 1.0 if self.signal == self.approximation else 0.0
        return self.product / scale


@torch.no_grad()
def measure_sites(
    model: nn.Module,
    replacements: Mapping[str, nn.Module],
    examples: Sequence[Example | torch.Tensor],
    progress: Progress = silent,
) -> tuple[list[SiteFidelity], list[torch.Tensor]]:
    """Compare old with new layers, on the calls that the original model makes.

    Args:
        model: the original, not yet changed.
        replacements: new module by site path.
        examples: calls of the model, or normalised images (B, C, H, W).

    Returns:
        Fidelity by site in the order of ``replacements``, and the model's outputs by batch.
    """
    sums = {path: Agreement() for path in replacements}
    handles = []
    for path, new in replacements.items():
        hook = _comparing(new.eval(), sums[path])
        handles.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    try:
        outputs = run_all(model, examples, "original", progress)
    finally:
        for handle in handles:
            handle.remove()
    fidelity = [SiteFidelity(path, s.sqnr_db, s.cosine) for path, s in sums.items()]
    return fidelity, outputs


def _comparing(new: nn.Module, sums: Agreement):
    busy = False

    def hook(_old: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        nonlocal busy
        if busy:  # a replacement that keeps the old layer for prefix tokens runs it again
            return
        busy = True
        try:
            sums.add(first_tensor(output), Call(args, kwargs).on(as_original(new)))
        finally:
            busy = False

    return hook


@torch.no_grad()
def measure_output(
    model: nn.Module,
    expected: list[torch.Tensor],
    examples: Sequence[Example | torch.Tensor],
    must_run: Mapping[str, nn.Module],
    progress: Progress = silent,
    labels: Sequence[torch.Tensor] | None = None,
) -> OutputFidelity:
    """Compare the converted model's output with the original's.

    Args:
        model: with its new layers in place.
        expected: the original's outputs by batch, as `measure_sites` returns them.
        examples: calls of the model, or normalised images (B, C, H, W).
        must_run: the new layers by path, each of which has to run.
        labels: (B,) classes of each batch, for the accuracy of both.

    Raises:
        DcnifyError: a replacement never ran: the model holds on to the old layer elsewhere.
    """
    idle = set(must_run)
    handles = [
        module.register_forward_hook(lambda *_, path=path: idle.discard(path))
        for path, module in must_run.items()
    ]
    try:
        outputs = run_all(model, examples, "converted", progress)
    finally:
        for handle in handles:
            handle.remove()
    if idle:
        raise DcnifyError(
            f"the new {min(idle)} did not run: the model holds the old one elsewhere, or none of "
            "the images gets there"
        )
    sums = Agreement()
    for a, b in zip(expected, outputs, strict=True):
        sums.add(a, b)
    classifies = all(are_logits(output, model) for output in outputs)
    before = predicted_classes(expected) if classifies else None
    now = predicted_classes(outputs) if classifies else None
    return OutputFidelity(
        sums.sqnr_db,
        sums.cosine,
        share_equal(now, before),
        sum(map(len, expected)),
        sums.relative_error,
        share_equal(now, labels),
        share_equal(before, labels),
        kl_divergence(expected, outputs) if classifies else None,
    )


def run_all(
    model: nn.Module, examples: Sequence[Example | torch.Tensor], what: str, progress: Progress
) -> list[torch.Tensor]:
    """Return the model's output for each example; ``what`` model it is, for the progress."""
    outputs = []
    for index, example in enumerate(examples):
        outputs.append(output_tensor(Example.of(example).call(model)))
        progress(f"running the {what} model", index + 1, len(examples))
    return outputs
