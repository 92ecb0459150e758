"""A small sweep, and a way to run it."""

from __future__ import annotations

import dcnify
from dcnify.sources.spec import SourceSpec

SOURCE = "python:support.models:tiny_convnext"
KERNEL, INIT, STAGES = (
    "swaps.dw7.replace.kernel_size",
    "swaps.dw7.init",
    "swaps.dw7.select.stages",
)
SWEEP = {
    "name": "tiny",
    "recipe": "convnext",
    "factors": {KERNEL: [3, 1], STAGES: [[0], [1]]},
    "seeds": [0, 1],
    "measure": ["fidelity", "parameters", "flops"],
}
STEPS = "finetune.stages.recover.steps"


def ablate(folder, sweep=SWEEP, **options):
    """Run a sweep on a tiny model, and return what was said besides the result."""
    said = []
    source = SourceSpec(SOURCE, input_size="32", model_arg=("num_classes=10",))
    given = {"images": "builtin:cluttered-digits", **options}
    result = dcnify.ablate(sweep, source, output=folder, say=said.append, **given)
    return result, said
