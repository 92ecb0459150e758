"""Which of the shipped launches the tests compile: about a minute's worth on two cores.

``python -m dcnify.kernels.tools.inspect`` compiles all of them; ``docs/results/compiled.csv`` has
what they became, and the tests compare.
"""

from __future__ import annotations

from dcnify.kernels.tools.inspect import Case

HALF, BRAIN, FULL = "float16", "bfloat16", "float32"

ON_SM_90 = (
    *(Case("forward", width, dtype, "sm_90") for width in (12, 16, 32) for dtype in (HALF, FULL)),
    *(Case("forward", width, BRAIN, "sm_90") for width in (32, 64)),
    Case("forward softmax", 16, HALF, "sm_90"),
    Case("forward softmax", 32, FULL, "sm_90"),
    Case("forward autocast", 32, HALF, "sm_90"),
    Case("backward", 16, HALF, "sm_90"),
    Case("backward", 32, BRAIN, "sm_90"),
    Case("backward", 32, FULL, "sm_90"),
    Case("backward softmax", 16, HALF, "sm_90"),
    Case("backward scatter", 32, HALF, "sm_90"),
    Case("backward value", 16, HALF, "sm_90"),
    Case("backward value", 32, FULL, "sm_90"),
    Case("backward value 5x5", 32, BRAIN, "sm_90"),
)
ELSEWHERE = tuple(
    Case(kind, 32, HALF, target)
    for target in ("sm_80", "sm_100", "gfx942")
    for kind in ("forward", "backward", "backward value")
)
CHOSEN = (*ON_SM_90, *ELSEWHERE)
