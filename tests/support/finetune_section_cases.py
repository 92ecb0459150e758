"""A recipe with a ``finetune`` section, for the tests of that section."""

from __future__ import annotations

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe

SWAPS = """\
version: 1
name: mine
swaps:
  - {name: late, select: {role: attention}, replace: {with: dcnv4}}
"""
GOOD = """\
finetune:
  seed: 3
  stages:
    - name: only
      epochs: 2
      optimizer: {lr: 1e-3}
"""


def read(section: str, *overrides: str) -> Recipe:
    return Recipe.from_yaml(SWAPS + section, "r.yaml", overrides)


def stage_of(more: str):
    return read(f"{GOOD}      {more}\n").finetune.stages[0]


def error_of(section: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        read(section, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)
