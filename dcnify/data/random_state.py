"""The random numbers of Python, NumPy and torch: given for a while, and put back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept() -> Iterator[None]:
    """Whatever is drawn or seeded inside, afterwards it is as if it had not been.

    Of torch only the generator of the CPU: the one of a GPU is never touched here.
    """
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)


def seed(*numbers: int) -> None:
    """Seed all three by whole numbers of any size; other numbers, unrelated seeds."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=20).digest()
    random.seed(int.from_bytes(digest[:8]))
    np.random.seed(int.from_bytes(digest[8:12]))
    # Not torch.manual_seed, which seeds the GPUs as well: dropout would repeat itself.
    torch.default_generator.manual_seed(int.from_bytes(digest[12:]))
