"""Makers of PyTorch's files, of the models and wrappings that people write into them."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import pathlib
import re
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

ARCH = "test_convnext"
VIT, ATTO = "vit_tiny_patch16_224", "convnext_atto"
ONE = torch.ones(1)
State = dict[str, Any]


@dataclasses.dataclass
class Opening:
    """A file, the options to open it with, and the model that it was made from."""

    path: Path
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: nn.Module = dataclasses.field(default_factory=lambda: model())


@cache
def model(name: str = ARCH, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **args).eval()


def state() -> State:
    return dict(model().state_dict())


def under(prefix: str, tensors: State) -> State:
    return {prefix + name: value for name, value in tensors.items()}


def saved(change: Callable[[State], Any], name: str = "m.pt", **options: Any) -> Callable:
    """A maker of what ``change`` makes of the state dict, in a file of PyTorch."""

    def make(folder: Path) -> Path:
        torch.save(change(state()), folder / name, **options)
        return folder / name

    return make


def of(name: str, args: State, told: State, change: Callable[[State], Any] = lambda s: s, **more):
    """A maker of a file of another timm model, opened with ``told``."""

    def make(folder: Path) -> Opening:
        one = model(name, **args)
        torch.save(change(dict(one.state_dict())), folder / "m.pt")
        return Opening(folder / "m.pt", {"arch": name, "model_args": told, **more}, one)

    return make


def with_option(change: Callable[[State], Any], **options: Any) -> Callable:
    return lambda folder: Opening(saved(change)(folder), options)


def foreign(name: str, base: type = object) -> Any:
    """An object of a package that is not installed."""
    module, _, short = name.rpartition(".")
    kind = type(short, (base,), {"__module__": module})
    for k in range(module.count(".") + 1):
        part = ".".join(module.split(".")[: k + 1])
        sys.modules.setdefault(part, types.ModuleType(part))
    setattr(sys.modules[module], short, kind)
    one = kind()
    one.kept = [1]
    return one


def with_foreign(name: str, base: type = object) -> Callable:
    def make(folder: Path) -> Path:
        before = set(sys.modules)
        path = saved(lambda s: {"state_dict": s, "x": foreign(name, base)})(folder)
        for added in set(sys.modules) - before:
            del sys.modules[added]
        return path

    return make


def in_half(folder: Path) -> Opening:
    one = copy.deepcopy(model()).half()
    torch.save(one.state_dict(), folder / "m.pt")
    return Opening(folder / "m.pt", {}, one.float())


def of_torchvision(**options: Any) -> Callable:
    def make(folder: Path) -> Opening:
        one = torchvision.models.shufflenet_v2_x0_5(num_classes=3).eval()
        torch.save(one.state_dict(), folder / "m.pth")
        return Opening(folder / "m.pth", {"arch": None, **options}, one)

    return make


def official_convnext(tensors: State, depthwise: str = "dwconv", mlp: str = "pwconv") -> State:
    out = {}
    for name, value in tensors.items():
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", depthwise)
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name).replace("mlp.fc", mlp)
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        flat = mlp in name and value.ndim == 4
        if "mlp.grn" in name:
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            value = value.reshape(1, 1, 1, -1)
        out[name] = value[:, :, 0, 0] if flat else value
    return out


def mmpretrain(tensors: State) -> State:
    named = official_convnext(tensors, "depthwise_conv", "pointwise_conv")
    names = {k: re.sub(r"^norm\.", "norm3.", re.sub(r"^head\.", "head.fc.", k)) for k in named}
    return {
        "state_dict": {
            (new if new.startswith("head.") else f"backbone.{new}"): named[old]
            for old, new in names.items()
        }
    }


def chunked(tensors: State) -> State:
    names = {k: re.sub(r"^blocks\.(\d)", lambda m: f"blocks.0.{m[1]}", k) for k in tensors}
    held = {f"backbone.{names[k]}": v for k, v in tensors.items()}
    return {"teacher": {**held, "backbone.mask_token": ONE, "dino_head.mlp.0.weight": ONE}}


def headless(tensors: State) -> State:
    return {k: v for k, v in tensors.items() if not k.startswith("head")}


def clip_trunk(tensors: State) -> State:
    return {"state_dict": {**under("visual.trunk.", tensors), "logit_scale": torch.ones(())}}


def fcmae(folder: Path) -> Opening:
    sizes = {"depths": [1, 1, 1, 1]}
    one = model("convnextv2_atto", depths=(1, 1, 1, 1))
    torch.save({"model": official_convnext(headless(one.state_dict()))}, folder / "m.pt")

    class Maps(nn.Module):
        def forward(self, x):
            return one.forward_intermediates(x, intermediates_only=True)

    return Opening(folder / "m.pt", {"arch": "convnextv2_atto", "model_args": sizes}, Maps())


def trained(**options: Any) -> Callable:
    given = argparse.Namespace(model=ARCH, num_classes=None, where=pathlib.Path("/x"), **options)
    return with_option(lambda s: {"state_dict": s, "args": given, "arch": ARCH}, arch=None)


def damaged(folder: Path) -> Path:
    path = saved(lambda s: s)(folder)
    data = bytearray(path.read_bytes())
    data[data.find(state()["stem.0.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    return path


def dynamic(folder: Path) -> Path:
    quantised = torch.ao.quantization.quantize_dynamic(timm.create_model(ARCH), {nn.Linear})
    torch.save(quantised.state_dict(), folder / "m.pt")
    return folder / "m.pt"


class Runs:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("ran"),)


def changed(change: Callable[[torch.Tensor], Any]) -> Callable:
    return saved(lambda s: {**s, "stem.0.weight": change(s["stem.0.weight"])})


def added(*names: str) -> Callable:
    return saved(lambda s: {**s, **dict.fromkeys(names, ONE)})


def alike(pattern: str) -> Callable:
    return saved(lambda s: {pattern.format(number): ONE for number in range(12)})
