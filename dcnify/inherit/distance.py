"""Losses: how far one tensor is from another."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.inherit.precision import wide


def relative_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The square of the difference over the square of ``wanted``, means over all numbers."""
    wanted = wide(wanted)
    return (wide(given) - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


def kl_divergence(given: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The divergence of logits (B, K) from the wanted ones, both softened by ``temperature``.

    Times the square of the temperature, so that its gradient is of the size of the
    cross-entropy's (Hinton et al., arXiv 1503.02531, section 2).
    """
    given_log = F.log_softmax(given / temperature, 1)
    wanted_log = F.log_softmax(wanted / temperature, 1)
    apart = F.kl_div(given_log, wanted_log, reduction="batchmean", log_target=True)
    return temperature**2 * apart.clamp_min(0)


def are_logits(output: Tensor, model: nn.Module) -> bool:
    """Whether the output of ``model`` is (B, K) with K classes, as far as it tells."""
    classes = output.shape[1] if output.dim() == 2 else 0
    return classes >= 2 and getattr(model, "num_classes", classes) == classes
