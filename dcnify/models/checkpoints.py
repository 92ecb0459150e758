"""Published and trained weights of InternImage, as their files hold them, under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

_HOLDERS = ("model", "module", "state_dict", "model_ema", "state_dict_ema")
_STEM = "patch_embed.conv1.weight"
_SCALE = re.compile(r"\.layer_scale([12])$")


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The weights of a file by our names.

    Takes ``{"model": ...}`` and its like apart, leaves out what is not of the backbone (detection,
    segmentation) and reads the names of the Hugging Face port (``model.``, ``layer_scale1``).
    """
    del model
    for holder in _HOLDERS:
        if isinstance(state_dict.get(holder), Mapping):
            return checkpoint_filter_fn(state_dict[holder], None)
    stem = next((name for name in state_dict if name.endswith(_STEM)), _STEM)
    prefix = stem.removesuffix(_STEM)
    return {
        renamed(name.removeprefix(prefix)): value
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }


def renamed(name: str) -> str:
    """A name of the Hugging Face port as the original has it."""
    return _SCALE.sub(r".gamma\1", name)
