"""Seeds that follow from the place in a run, so that no random state has to be saved."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_of(*parts: int | None) -> int:
    """Return a seed that follows from all of ``parts``."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def reseed(*parts: int | None) -> None:
    """Seed torch's and NumPy's random numbers by all of ``parts``."""
    torch.manual_seed(seed_of(*parts))
    np.random.seed(seed_of(*parts, 1))
