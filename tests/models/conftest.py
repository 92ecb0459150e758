"""What the tests of our models share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96)
