"""What models predict: how often two agree, how far apart they are, and how sure one is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def are_logits(outputs: Sequence[Tensor]) -> bool:
    """Whether the outputs are (B, classes)."""
    return all(output.dim() == 2 for output in outputs)


def predicted_classes(outputs: Sequence[Tensor]) -> list[Tensor] | None:
    """The likeliest class of every image, -1 where there is a NaN; None unless these are logits."""
    if not are_logits(outputs):
        return None
    return [output.argmax(-1).where(~output.isnan().any(-1), -1) for output in outputs]


def share_equal(seen: Sequence[Tensor] | None, wanted: Sequence[Tensor] | None) -> float | None:
    """The share of images for which both name the same class, which a NaN does not."""
    if seen is None or wanted is None:
        return None
    pairs = [(a, b.to(a.device)) for a, b in zip(seen, wanted, strict=True)]
    same = sum(int(((a == b) & (a >= 0)).sum()) for a, b in pairs)
    return same / max(1, sum(map(len, wanted)))


def kl_divergence(expected: Sequence[Tensor], seen: Sequence[Tensor]) -> float | None:
    """Mean KL(expected || seen) over the images, in nats; None unless the outputs are logits."""
    if not are_logits(expected):
        return None
    total = 0.0
    for before, now in zip(expected, seen, strict=True):
        p, q = before.double().log_softmax(-1), now.double().log_softmax(-1)
        total += float(torch.where(p == -math.inf, 0.0, p.exp() * (p - q)).sum())
    return total / max(1, sum(map(len, expected)))


def decisiveness(outputs: Sequence[Tensor]) -> float | None:
    """How sure a model is on average, from 0 (all classes alike) to 1 (certain).

    1 - entropy / log(classes). None unless the outputs are logits of two classes or more.
    """
    if not are_logits(outputs) or outputs[0].shape[1] < 2:
        return None
    uniform = [torch.zeros_like(output, dtype=torch.float64) for output in outputs]
    from_uniform = kl_divergence(outputs, uniform)
    return None if from_uniform is None else from_uniform / math.log(outputs[0].shape[1])
