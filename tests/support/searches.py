"""A small search, and a way to run it."""

from __future__ import annotations

import dcnify
from dcnify.bench.spec import ModelBenchSpec
from dcnify.data.spec import ImageSpec
from dcnify.sources.spec import SourceSpec

SOURCE = "python:support.models:tiny_convnext"
ARGS = ("ls_init_value=1.0", "num_classes=10")
OPTIONS = {
    "images": ImageSpec("builtin:cluttered-digits", image_count=16),
    "bench": ModelBenchSpec(seconds=0.1, batch=1),
    "overrides": ["require=null"],
}
TYPED = (
    *("--input-size", "32", "--model-arg", ARGS[0], "--model-arg", ARGS[1]),
    *("--images", "builtin:cluttered-digits", "--image-count", "16"),
    *("--batch", "1", "--time", "0.1", "--set", "require=null"),
)


FEW = {"overrides": ["require=null", "swaps.dw7.select.stages=[0, 1]"]}
"""Two candidates, so that no sets are measured to see how damages add up."""
PAIR = ("stages.0.blocks.0.conv_dw", "stages.1.blocks.0.conv_dw")


def search(folder, budget="sites>=2", **options):
    """Search a tiny ConvNeXt, and return the result and what was said."""
    said = []
    source = SourceSpec(SOURCE, input_size="32", model_arg=ARGS)
    result = dcnify.search(source, budget, output=folder, say=said.append, **{**OPTIONS, **options})
    return result, said
