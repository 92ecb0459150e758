"""Makers of files and folders of other formats than PyTorch's own."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from support.files_of_pytorch import Opening, State, model, state
from torch import nn


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


def safetensors(change: Callable[[State], State] = lambda s: s) -> Callable:
    def make(folder: Path) -> Path:
        save_file(change(state()), folder / "m.safetensors")
        return folder / "m.safetensors"

    return make


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


def pickled_arrays(folder: Path) -> Path:
    arrays = {name: value.numpy() for name, value in state().items()}
    (folder / "m.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    return folder / "m.pkl"


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
