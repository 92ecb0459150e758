"""A small case of every kernel, with wild offsets, for compute-sanitizer to watch."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.kernel_calls import numbers, with_gradients

from dcnify.ops import dcnv4

for how in ({}, {"softmax": True}, {"kernel_size": 7, "padding": 3}):
    for group_channels in (3, 16):
        how = {"groups": 2, **how}
        call = numbers(batch=1, size=(6, 7), group_channels=group_channels, wild=True, **how)
        with_gradients(dcnv4, *(t.cuda() for t in call), **how)
print("done")
