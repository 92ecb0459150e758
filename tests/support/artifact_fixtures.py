"""Fixtures of the artifact tests; what they are made of is in `artifact_standin`."""

import pytest
import torch
from support.artifact_standin import SITES, converted, replay, tiny


@pytest.fixture
def stand_in(monkeypatch):
    """`dcnify.surgery.replay` puts `artifact_standin.Swapped` at each site."""
    monkeypatch.setattr("dcnify.surgery.replay", replay)


@pytest.fixture
def result(stand_in):
    """A converted ConvNeXt of 40 thousand parameters."""
    torch.manual_seed(0)
    return converted(tiny(), *SITES)
