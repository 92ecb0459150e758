"""A good recipe, and what is said of it with something changed."""

from __future__ import annotations

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe

GOOD = """\
version: 1
name: mine
description: Late stages only.
input: [3, 224, 224]
swaps:
  - name: late
    select:
      role: depthwise_conv
      modules: ["stages.*.blocks.*.conv_dw"]
      stages: [2, 3]
      where: {kernel: 7, stride: 1}
    exclude: ["stages.2.blocks.0.*"]
    expect: {min: 8}
    replace:
      with: dcnv4
      kernel_size: 3
      pointwise: true
    init: [{method: transfer}]
    require: {sqnr_db: 3.0, on_violation: revert}
"""


def error_of(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Recipe.from_yaml(text, "recipe.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return error_of(GOOD.replace(old, new))
