"""A detector: it is given a list of images of any sizes, and returns boxes as it finds them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import interpolate


class Normalise(nn.Module):
    """Puts images of any sizes into one batch; it has no weights."""

    def forward(self, images):
        return torch.stack([interpolate(one[None] - 0.5, (32, 32))[0] for one in images])


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, 2)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.reduce = nn.Conv2d(16, 32, 2, 2)

    def forward(self, x, scale=1.0):
        fine = self.mix(self.stem(x)).relu() * scale
        return {"fine": fine, "coarse": self.reduce(fine)}


class Detector(nn.Module):
    """As torchvision's: how many boxes it returns depends on what it sees."""

    def __init__(self):
        super().__init__()
        self.transform = Normalise()
        self.backbone = Backbone()
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, images):
        scores = self.head(self.backbone(self.transform(images))["coarse"]).flatten(1)
        return [{"scores": one[one > 0]} for one in scores if one.max() > -9]


def detector():
    torch.manual_seed(0)
    return Detector()


def example_inputs():
    return ([torch.rand(3, 20, 24), torch.rand(3, 30, 18)],)


class Counting(Detector):
    """Its boxes are as many as there are; a capture fails elsewhere than where they are chosen."""

    def forward(self, images):
        scores = self.head(self.backbone(images)["coarse"]).flatten(1)
        return [{"scores": one[one > 0]} for one in scores]
