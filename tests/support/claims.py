"""Workers that claim trials and note each that they finish; some are killed."""

from __future__ import annotations

import random
import time
from pathlib import Path


def claim_all(url: str, study: str, notes: str, seed: int) -> None:
    """Take trials until none is left; a note for each that was written down."""
    from dcnify.ablate.state.store import open_store

    random.seed(seed)
    store = open_store(url, study)
    while True:
        row = store.claim()
        if row is None:
            if not store.running():
                return
            time.sleep(0.05)
            store.take_back()
            continue
        with store.alive(row):
            time.sleep(random.random() * 0.01)
            if store.finish(row, {"objective": 1.0, "values": {}}):
                with Path(notes).open("a") as file:
                    file.write(row.hash + "\n")


def claim_and_hang(url: str, study: str) -> None:
    """Take a trial and never finish it."""
    from dcnify.ablate.state.store import open_store

    store = open_store(url, study)
    row = store.claim()
    assert row is not None
    with store.alive(row):
        time.sleep(600)
