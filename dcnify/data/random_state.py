"""The random state of Python, NumPy and torch: seeded for a while, and restored."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept() -> Iterator[None]:
    """Restore the random state on exit, whatever is drawn or seeded inside.

    Of torch only that of the CPU's generator: a GPU's is never touched here.
    """
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(tensor)


def seed(*numbers: int) -> None:
    """Seed all three by integers of any size; other integers give unrelated seeds."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=20).digest()
    random.seed(int.from_bytes(digest[:8]))
    np.random.seed(int.from_bytes(digest[8:12]))
    # Not torch.manual_seed, which seeds the GPUs as well: dropout would repeat itself.
    torch.default_generator.manual_seed(int.from_bytes(digest[12:]))
