"""Other ways to convert, one thing changed at a time."""

from __future__ import annotations

import functools
from typing import Any

from inherit_study.expanded import expanded
from inherit_study.ordered import ordered
from inherit_study.weighed import weighed

AS_IT_IS = "as it is"
VARIANTS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "images are not mixed": {"patch": {"MIXED": 0.0}},
    "other layers do not learn": {"patch": {"LEARNING_RATE_OF_OTHERS": 0.0}},
    "no steps on single layers": {"options": {"steps": 0}},
    "1200 steps on single layers": {"options": {"steps": 1200}},
    "100 steps of the whole model": {"options": {"model_steps": 100}},
    "1200 steps of the whole model": {"options": {"model_steps": 1200}},
    "16 channels a group": {"replace": ("group_channels=16",)},
    "16 channels a group, 5x5 points": {"replace": ("group_channels=16", "kernel_size=5")},
    "offsets from single pixels": {"replace": ("dw_kernel_size=null",)},
    "no projections": {"replace": ("pointwise=false",)},
    "4 channels a group": {"replace": ("group_channels=4",)},
    "twice the values, 8 channels a group": {"within": expanded},
    "twice the values, 16 channels a group": {
        "replace": ("group_channels=16",),
        "within": expanded,
    },
    "from the input on": {"within": functools.partial(ordered, backwards=False, steps=500)},
    "from the output back": {"within": functools.partial(ordered, backwards=True, steps=500)},
    "from the input on, soon": {"within": functools.partial(ordered, backwards=False, steps=250)},
    "from the output back, soon": {"within": functools.partial(ordered, backwards=True, steps=250)},
    "layers weighed": {"within": functools.partial(weighed, layers=True)},
    "channels weighed": {"within": functools.partial(weighed, channels=True)},
    "layers and channels weighed": {
        "within": functools.partial(weighed, layers=True, channels=True)
    },
    "channels weighed, of single layers": {"within": functools.partial(weighed, single=True)},
    "half the rates": {"patch": {"LEARNING_RATE": 0.01, "LEARNING_RATE_OF_OTHERS": 0.005}},
    "twice the rates": {"patch": {"LEARNING_RATE": 0.04, "LEARNING_RATE_OF_OTHERS": 0.02}},
}
"""What else could be: the first subject, all sites, fit+calibrate, the first seed. Named ones also
of the other seeds that are named."""
