"""What every test gets: the same random numbers, two threads, no network, Triton interpreted."""

from __future__ import annotations

import atexit
import gc
import os
import random
import socket
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Processes that a test starts find its functions under the name that importlib mode gave the file.
sys.path.append(str(Path(__file__).resolve().parents[1]))
# Sleeping beats spinning where tests share the machine. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each core has a worker of its own, which is to share it with the programs that it starts.
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

try:
    from hypothesis import settings
except ImportError:  # a GPU machine may have no more than the tests marked gpu need
    settings = None

if not torch.cuda.is_available():
    # Triton decides when it is imported. Tests that compile for a real target start a process.
    os.environ["TRITON_INTERPRET"] = "1"

if settings is not None:
    settings.register_profile("dcnify", derandomize=True, deadline=None)
    settings.load_profile("dcnify")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """Leave what has been imported out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else extension modules report leaks at the end


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """A test that reaches for the network fails at once and says so."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        local = self.family not in (socket.AF_INET, socket.AF_INET6)
        if not local and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests do not use the network, and this one asked for {address[0]}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
