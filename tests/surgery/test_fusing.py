"""Plans warn of code that would read the weights of a swapped layer."""

from __future__ import annotations

import torch
from support.models import recipe
from torch import nn

import dcnify


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(self.conv(x))

    def fuse(self):
        return self.conv.weight * self.norm.weight[:, None, None, None]


def test_a_method_that_folds_the_layer_is_named_with_the_way_out():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), Branch(), Branch()).eval()
    (note,) = dcnify.plan(model, recipe("depthwise_conv"), torch.randn(1, 3, 16, 16)).notes
    assert "Branch.fuse() reads weights that 1.conv has no more" in note
    assert "before the conversion" in note


def test_without_such_code_there_is_no_word_of_it():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)).eval()
    assert dcnify.plan(model, recipe("depthwise_conv"), torch.randn(1, 3, 16, 16)).notes == ()
