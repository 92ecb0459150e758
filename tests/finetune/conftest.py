"""One artifact for all tests of a module: nothing changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.finetune_cases import converted


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    converted(folder)
    return folder / "converted"


@pytest.fixture(scope="session")
def steady(tmp_path_factory) -> Path:
    """Hands over, and drops nothing at random."""
    folder = tmp_path_factory.mktemp("steady")
    converted(folder, handover=True, drop_path_rate=0.0)
    return folder / "converted"


@pytest.fixture(scope="session")
def handing_over(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("handing-over")
    converted(folder, handover=True)
    return folder / "converted"
