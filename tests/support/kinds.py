"""Kinds of files that people hold, each as a function that makes one in a folder."""

from __future__ import annotations

import collections
import datetime
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.files_of_other_formats import (
    array_archive,
    exported,
    files,
    hub,
    pickled_arrays,
    safetensors,
    scripted,
    sharded,
    tarred,
    transformers_folder,
    truncated,
    written,
    zipped,
)
from support.files_of_pytorch import (
    ARCH,
    ATTO,
    ONE,
    VIT,
    Runs,
    added,
    alike,
    changed,
    chunked,
    clip_trunk,
    damaged,
    dynamic,
    fcmae,
    in_half,
    mmpretrain,
    model,
    of,
    of_torchvision,
    official_convnext,
    saved,
    trained,
    under,
    with_foreign,
    with_option,
)

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
