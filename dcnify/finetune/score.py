"""How good a model in training is: its accuracy, or how closely it follows the original."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dcnify.inherit.precision import wide

DISTANCES = {"agreement": "kl", "cosine": "relative_error"}
"""Measure without labels → the distance that goes with it."""


@dataclass(frozen=True)
class Score:
    """What a validation found."""

    measure: str
    """``accuracy`` on labels; without labels ``agreement`` with the original's likeliest classes,
    or ``cosine`` of the two outputs where they are not logits."""
    value: float
    """Mean over the images; the higher, the better."""
    distance: float | None = None
    """Mean KL divergence from the original in nats, or mean relative error; None with labels."""

    def to_dict(self) -> dict[str, float]:
        """The values by name."""
        if self.distance is None:
            return {self.measure: self.value}
        return {self.measure: self.value, DISTANCES[self.measure]: self.distance}


def against_labels(output: Tensor, labels: Tensor) -> Tensor:
    """(B, 1): whether the highest logit is the label's."""
    return (output.argmax(1) == labels).float()[:, None]


def against_original(output: Tensor, wanted: Tensor, *, logits: bool) -> Tensor:
    """(B, 2): for each image `Score.value` and `Score.distance`."""
    output, wanted = (wide(one).reshape(len(one), -1) for one in (output, wanted))
    if logits:
        same = (output.argmax(1) == wanted.argmax(1)).to(output)
        given, expected = output.log_softmax(1), wanted.log_softmax(1)
        apart = F.kl_div(given, expected, reduction="none", log_target=True).sum(1).clamp_min(0)
        return torch.stack([same, apart], 1)
    apart = (output - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-12)
    return torch.stack([F.cosine_similarity(output, wanted), apart], 1)
