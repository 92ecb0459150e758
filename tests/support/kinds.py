"""Kinds of files that people hold, each as a function that makes one in a folder."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import io
import json
import pathlib
import pickle
import re
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from safetensors.torch import save_file
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


def written(name: str, data: bytes) -> Callable:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def files(*names: str) -> Callable:
    """A maker of a folder of such files."""

    def make(folder: Path) -> Path:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        return folder

    return make


def zipped(*names: str) -> Callable:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "m.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        return folder / "m.zip"

    return make


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


def safetensors(change: Callable[[State], State] = lambda s: s) -> Callable:
    def make(folder: Path) -> Path:
        save_file(change(state()), folder / "m.safetensors")
        return folder / "m.safetensors"

    return make


def in_half(folder: Path) -> Opening:
    one = copy.deepcopy(model()).half()
    torch.save(one.state_dict(), folder / "m.pt")
    return Opening(folder / "m.pt", {}, one.float())


def sharded(folder: Path) -> Path:
    tensors, places = state(), {}
    for number in range(2):
        part = dict(list(tensors.items())[number::2])
        save_file(part, folder / f"model-0000{number + 1}-of-00002.safetensors")
        places |= dict.fromkeys(part, f"model-0000{number + 1}-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


def hub(folder: Path) -> Opening:
    timm.models.save_for_hf(model(), str(folder / "hub"), safe_serialization=True)
    return Opening(folder / "hub", {"arch": None})


def transformers_folder(folder: Path) -> Opening:
    import transformers

    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_labels": 3}
    one = transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes)).eval()
    one.save_pretrained(folder / "hf")
    return Opening(folder / "hf", {"arch": None}, one)


def of_torchvision(**options: Any) -> Callable:
    def make(folder: Path) -> Opening:
        one = torchvision.models.shufflenet_v2_x0_5(num_classes=3).eval()
        torch.save(one.state_dict(), folder / "m.pth")
        return Opening(folder / "m.pth", {"arch": None, **options}, one)

    return make


def pickled_arrays(folder: Path) -> Path:
    arrays = {name: value.numpy() for name, value in state().items()}
    (folder / "m.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    return folder / "m.pkl"


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


SHALLOW = {"depth": 1}
OPENED: dict[str, Callable[[Path], Any]] = {
    "a bare state dict": saved(lambda s: s),
    "... in PyTorch's format before 1.6": saved(lambda s: s, _use_new_zipfile_serialization=False),
    "... of pickle protocol 4": saved(lambda s: {"model": s, "x": {1.5}}, pickle_protocol=4),
    "... with an ending of its own": saved(lambda s: s, "m.weights"),
    "... in safetensors": safetensors(),
    "... in several safetensors with an index": sharded,
    "... in float16": in_half,
    "under `model`, beside an optimizer": saved(
        lambda s: {"model": s, "optimizer": {"a": {0: ONE}}}
    ),
    "under `state_dict`": saved(lambda s: {"state_dict": s, "epoch": 1}),
    "under `model`, `state_dict`": saved(lambda s: {"model": {"state_dict": s}}),
    "under any other key": saved(lambda s: {"query_encoder": s}),
    "several keys deep": saved(lambda s: {"a": {"b": {"c": s}}}),
    "DDP (`module.`)": saved(lambda s: under("module.", s)),
    "torch.compile (`_orig_mod.`)": saved(lambda s: under("_orig_mod.", s)),
    "FSDP's wrappers": saved(lambda s: under("_fsdp_wrapped_module.", s)),
    "Lightning": saved(lambda s: {"state_dict": under("model.", s), "hyper_parameters": {}}),
    "Lightning with a loss and metrics": saved(
        lambda s: {"state_dict": {**under("net.", s), "loss.weight": ONE, "acc.tp": ONE}}
    ),
    "SWA (`AveragedModel`)": saved(lambda s: {**under("module.", s), "n_averaged": ONE}),
    "EMA weights in a key beside": saved(lambda s: {"state_dict": s, "state_dict_ema": s}),
    "EMA weights in the same dict": saved(lambda s: {**under("model.", s), **under("ema.", s)}),
    "thop's counters": saved(lambda s: {**s, "total_ops": ONE, "stem.0.total_params": ONE}),
    "MoCo's `encoder_q` and a queue": saved(lambda s: {**under("encoder_q.", s), "queue": ONE}),
    "a teacher alone": saved(lambda s: {"teacher": under("backbone.", s), "epoch": 1}),
    "one of two, with `--key`": with_option(
        lambda s: {"student": {k: v + 1 for k, v in s.items()}, "teacher": s}, key="teacher"
    ),
    "with more, with `--ignore`": with_option(
        lambda s: {**s, "stages.0.adapter": ONE}, ignore=("*adapter",)
    ),
    "`nn.Sequential(normalize, model)`": saved(lambda s: {**under("1.", s), "0.mean": ONE}),
    "a NumPy scalar beside": saved(lambda s: {"state_dict": s, "x": np.float64(1)}),
    "a NumPy array beside": saved(lambda s: {"state_dict": s, "x": np.zeros(3)}),
    "a path beside": saved(lambda s: {"state_dict": s, "x": pathlib.Path("/x")}),
    "a date beside": saved(lambda s: {"state_dict": s, "x": datetime.datetime(2026, 1, 1)}),
    "a deque beside": saved(lambda s: {"state_dict": s, "x": collections.deque([1])}),
    "omegaconf's settings beside": with_foreign("omegaconf.dictconfig.DictConfig"),
    "mmengine's history beside": with_foreign("mmengine.logging.history_buffer.HistoryBuffer"),
    "mmengine's config beside": with_foreign("mmengine.config.config.ConfigDict", dict),
    "yacs' settings beside": with_foreign("yacs.config.CfgNode", dict),
    "an object of the user's own beside": with_foreign("train.Meters", list),
    "a view beside that unpacks to 4 TiB": saved(lambda s: {**s, "x": ONE.expand(1 << 40)}),
    "a pickle of NumPy arrays (Detectron2)": pickled_arrays,
    "a checkpoint of timm's training script": trained(),
    "a folder that timm wrote": hub,
    "a folder of transformers": transformers_folder,
    "torchvision's weights": of_torchvision(),
    "... with `--arch torchvision:NAME`": of_torchvision(arch="torchvision:shufflenet_v2_x0_5"),
    "ConvNeXt, names of its repository": of(
        ATTO,
        {"depths": (1, 1, 1, 1)},
        {"depths": [1, 1, 1, 1]},
        lambda s: {"model": official_convnext(s)},
    ),
    "ConvNeXt V2, names of its repository": of(
        "convnextv2_atto",
        {"depths": (1, 1, 1, 1)},
        {"depths": [1, 1, 1, 1]},
        lambda s: {"model": official_convnext(s)},
    ),
    "FCMAE, without norm and head": fcmae,
    "ConvNeXt of mmpretrain": of(
        ATTO, {"depths": (1, 1, 1, 1)}, {"depths": [1, 1, 1, 1]}, mmpretrain
    ),
    "DINOv2's training file": of(VIT, {"depth": 2, "num_classes": 0}, {"depth": 2}, chunked),
    "an image tower of open_clip": of(VIT, SHALLOW, SHALLOW, clip_trunk),
    "MAE with its decoder": of(
        VIT,
        {"depth": 1, "num_classes": 0},
        SHALLOW,
        lambda s: {"model": {**s, "mask_token": ONE, "decoder_pred.weight": ONE}},
    ),
    "a ViT of another patch and image size": of(
        VIT, {"depth": 1, "patch_size": 8, "img_size": 64}, SHALLOW
    ),
    "a Swin of another window": of(
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1, 1, 1), "window_size": 8, "img_size": 256},
        {"depths": [1, 1, 1, 1]},
    ),
    "another number of classes": of(ARCH, {"num_classes": 3}, {}),
    "another number of channels": of(ARCH, {"in_chans": 1}, {}),
    "no classifier": of(ARCH, {"num_classes": 0}, {}),
    "a head of one's own in `head.fc`": of(
        ARCH, {"num_classes": 0}, {}, lambda s: {**s, "head.fc.0.weight": ONE}
    ),
    "batch norms without counters": of(
        "test_resnet", {}, {}, lambda s: {k: v for k, v in s.items() if "num_batches" not in k}
    ),
}


def damaged(folder: Path) -> Path:
    path = saved(lambda s: s)(folder)
    data = bytearray(path.read_bytes())
    data[data.find(state()["stem.0.weight"].numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    return path


def truncated(make: Callable) -> Callable:
    def cut(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[:-99])
        return path

    return cut


def array_archive(folder: Path) -> Path:
    np.savez(folder / "m.npz", a=np.ones(3))
    return folder / "m.npz"


def scripted(folder: Path) -> Path:
    torch.jit.script(nn.Linear(2, 2)).save(folder / "m.pt")
    return folder / "m.pt"


def exported(folder: Path) -> Path:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, folder / "m.pt2")
    return folder / "m.pt2"


def tarred(folder: Path) -> Path:
    with tarfile.open(folder / "m.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"), io.BytesIO())
    return folder / "m.tar"


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


REFUSED: dict[str, Callable[[Path], Any]] = {
    "no such file": lambda folder: folder / "model.pt",
    "an empty file": written("m.pt", b""),
    "a file cut short": truncated(saved(lambda s: s)),
    "safetensors cut short": truncated(safetensors()),
    "one wrong bit": damaged,
    "a web page": written("m.pt", b"<!DOCTYPE html>"),
    "a Git LFS pointer": written("m.pt", b"version https://git-lfs.github.com/spec/v1\n"),
    "text": written("m.txt", b"hello"),
    "JSON": written("config.json", b'{"a": 1}'),
    "ONNX": written("m.onnx", b"\x08\x07\x12\x07pytorch"),
    "HDF5, Keras": written("m.h5", b"\x89HDF\r\n\x1a\n"),
    "Keras 3": zipped("config.json", "model.weights.h5"),
    "TensorFlow Lite": written("m.tflite", b"\x1c\0\0\0TFL3"),
    "TensorFlow": written("m.pb", b"\x0a\x07"),
    "Flax": written("m.msgpack", b"\x83\xa5"),
    "GGUF": written("m.gguf", b"GGUF\3\0"),
    "TensorRT": written("m.engine", b"\0\1"),
    "NumPy, `.npz`": array_archive,
    "NumPy, `.npy`": written("m.npy", b"\x93NUMPY"),
    "TorchScript": scripted,
    "torch.export, `.pt2`": exported,
    "gzip": written("m.pt.gz", b"\x1f\x8b\x08"),
    "a zip with a `.pt` inside": zipped("x/model.pt"),
    "a zip of something else": zipped("word/document.xml"),
    "a tar with a `.pt` inside": tarred,
    "random bytes": written("m.bin", bytes(range(255, 0, -1))),
    "a pickle whose state dict is code": saved(lambda s: {"state_dict": Runs()}),
    "a whole module": saved(lambda s: {"model": model()}),
    "a list": saved(lambda s: [s]),
    "no tensors": saved(lambda s: {"epoch": 1}),
    "two that fit": saved(lambda s: {"student": s, "teacher": {k: v + 1 for k, v in s.items()}}),
    "a key that is not there": with_option(lambda s: {"teacher": s}, key="techer"),
    "EMA weights alone": saved(lambda s: {"model_ema": s}),
    "int8 weights": changed(lambda v: v.to(torch.int8)),
    "bool weights": changed(lambda v: v > 0),
    "complex weights": changed(lambda v: v.to(torch.complex64)),
    "qint8 weights": changed(lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
    "sparse weights": changed(lambda v: v.to_sparse()),
    "weights of the meta device": changed(lambda v: v.to("meta")),
    "quantize_dynamic": dynamic,
    "bitsandbytes": added("head.fc.SCB"),
    "GPTQ, AWQ": added("head.fc.qweight"),
    "torchao": added("head.fc.weight:tensor_impl:int_data"),
    "pruned layers": added("head.fc.weight_mask"),
    "parametrised layers": added("head.fc.parametrizations.weight.original"),
    "another architecture": alike("layer{}.0.conv1.weight"),
    "a deeper model": of(ATTO, {"depths": (1, 1, 2, 1)}, {"depths": [1, 1, 1, 1]}),
    "a variant with layer scale": of(VIT, {"depth": 1, "init_values": 1e-5}, SHALLOW),
    "layers put into the model": added("stages.0.blocks.0.adapter.weight"),
    "a grid that is not square": of(VIT, {"depth": 1, "img_size": (32, 64)}, SHALLOW),
    "transformers, the file alone": alike("vit.encoder.layer.{}.output.dense.weight"),
    "ultralytics, names": alike("model.{}.conv.weight"),
    "OpenMMLab, names": alike("backbone.stages.0.blocks.{}.attn.w_msa.qkv.weight"),
    "Detectron2, names": alike("backbone.bottom_up.res2.{}.conv1.weight"),
    "a shard of DeepSpeed": saved(lambda s: {"module": {"a": torch.ones(0)}, "ds_version": "1"}),
    "a folder of DeepSpeed": files("latest", "zero_to_fp32.py"),
    "a folder of FSDP's shards": files(".metadata", "__0_0.distcp"),
    "a TensorFlow model": files("saved_model.pb"),
    "a folder with one weight file": files("model.pth"),
    "a folder with several": files("a.pt", "b.pt"),
    "an empty folder": lambda folder: folder,
}
