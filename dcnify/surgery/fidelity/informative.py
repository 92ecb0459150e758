"""Whether the fidelity at a model's output says anything about the layers that were swapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dcnify.graph.example import Example
from dcnify.inherit.distance import are_logits
from dcnify.progress import Progress, silent
from dcnify.surgery.fidelity.measure import Agreement, run_all
from dcnify.surgery.fidelity.predictions import decisiveness

UNDECIDED = 0.2
"""A model that is less decided (`decisiveness`) is taken for untrained. Fresh models of timm stay
below 0.11 on photographs; to give one class of 1000 half of the probability is 0.4."""
UNMOVED = 1e-2
"""Relative change of the output that counts as none."""


def why_untrained(outputs: Sequence[Tensor], model: nn.Module, known: bool = False) -> str | None:
    """Say why ``model``, which gives ``outputs``, is taken for untrained, or None.

    ``known`` says that its weights are known to be random, whatever its outputs.
    """
    if known:
        return "the weights of the original are random"
    classifies = all(are_logits(output, model) for output in outputs)
    decided = decisiveness(outputs) if classifies else None
    if decided is not None and decided < UNDECIDED:
        return (
            "the original hardly prefers one class to another on these images, like an untrained "
            "model"
        )
    return None


@torch.no_grad()
def why_unmoved(
    original: nn.Module,
    paths: Sequence[str],
    outputs: Sequence[Tensor],
    examples: Sequence[Example | Tensor],
    progress: Progress = silent,
) -> str | None:
    """Say why a model's output hardly depends on the layers at ``paths``, or None if it does.

    Args:
        original: in eval mode. It runs once more, with the outputs of these layers zeroed.
        paths: of the layers.
        outputs: what it gives on ``examples``.
        examples: calls of the model, or normalised images (B, C, H, W).
        progress: Progress callback.
    """
    with zeroed(original, paths):
        without = run_all(original, examples, "zeroed", progress)
    sums = Agreement()
    for before, now in zip(outputs, without, strict=True):
        sums.add(before, now)
    if not paths or not sums.relative_error < UNMOVED:
        return None
    return f"with the old layers' outputs set to zero it changes by {sums.relative_error:.0e} only"


@contextmanager
def zeroed(model: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Have the layers at ``paths`` give zeros for a while."""

    def zeros(_module: nn.Module, _args: Any, output: Any) -> Any:
        return tree_map_only(Tensor, torch.zeros_like, output)

    handles = [model.get_submodule(path).register_forward_hook(zeros) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
