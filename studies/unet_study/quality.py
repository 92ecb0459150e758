"""How good images are: their distance from real ones, in the features of a classifier."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from dcnify.data import ClutteredDigits

SIZE = 16
"""Height and width of an image."""
_COUNT, _BATCH, _EPOCHS = 20_000, 100, 4


class Classifier(nn.Sequential):
    """Reads digits; what it makes of an image before its last layer are the image's features."""

    def __init__(self) -> None:
        widths = (1, 32, 64, 64)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            conv = nn.Conv2d(before, after, 3, stride=1 if before == 1 else 2, padding=1)
            blocks += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """(N, 64) of images (N, 1, H, W), in float64."""
        layers = nn.Sequential(*list(self)[:-1])
        return torch.cat([layers(some) for some in images.split(500)]).double()


def labelled(split: str, count: int) -> tuple[Tensor, Tensor]:
    """Digits as `digits` gives them, and which they are."""
    data = ClutteredDigits(split, count, canvas=SIZE, digit=14, pieces=0)
    return data.images[:, None].float() / 127.5 - 1, data.labels


def digits(split: str, count: int) -> Tensor:
    """(N, 1, 16, 16) digits at random places, from -1 to 1."""
    return labelled(split, count)[0]


def classifier(file: Path) -> Classifier:
    """The classifier, trained where it is not in ``file`` yet."""
    torch.manual_seed(0)
    model = Classifier()
    if file.exists():
        load_model(model, file)
        return model.eval()
    images, labels = labelled("train", _COUNT)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(images), generator=order).split(_BATCH):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(file))
    return model.eval()


@torch.inference_mode()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images whose digit it reads."""
    return float((model(images).argmax(1) == labels).double().mean())


def frechet(some: Tensor, others: Tensor) -> float:
    """The Fréchet distance of two sets of features (N, F), taken for Gaussian.

    As for FID (Heusel et al., 2017, arXiv 1706.08500), whose features are those of an Inception.
    """
    means = some.mean(0), others.mean(0)
    one, other = some.T.cov(), others.T.cov()
    values, vectors = torch.linalg.eigh(one)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp_min(0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum()
    return float(apart + one.trace() + other.trace() - 2 * cross)
