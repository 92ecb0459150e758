"""Weight files as people have them, each opened to the very weights that were saved."""

import argparse
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.artifact_standin import TINY, assert_same, tiny
from timm.utils import CheckpointSaver, ModelEmaV3

from dcnify.artifact import open_source
from dcnify.errors import InputError

SIZES = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
NAMED = {"arch": "convnext_atto", "model_args": SIZES}


def trained(tmp_path, model, ema=None, /, **options):
    """A checkpoint as timm's training script writes it."""
    args = argparse.Namespace(**options) if options else None
    optimizer = torch.optim.AdamW(model.parameters())
    folder = str(tmp_path)
    saver = CheckpointSaver(
        model, optimizer, args=args, model_ema=ema, checkpoint_dir=folder, recovery_dir=folder
    )
    saver.save_checkpoint(0, metric=0.5)
    return tmp_path / "last.pth.tar"


OPTIONS = {
    "model": "convnext_atto",
    "num_classes": 10,
    "in_chans": None,
    "img_size": 96,
    "input_size": None,
    "gp": None,
    "drop": 0.0,
    "drop_path": 0.1,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "model_kwargs": SIZES,
    "pretrained": True,
    "initial_checkpoint": "/somewhere/else.pth",
}


def test_a_timm_checkpoint_names_its_architecture(tmp_path):
    model = tiny(drop_path_rate=0.1)
    source = open_source(trained(tmp_path, model, **OPTIONS))
    assert_same(model, source.model)
    assert source.base.name == "convnext_atto"
    assert source.base.args == {**SIZES, "num_classes": 10, "drop_path_rate": 0.1}
    assert source.input_size == (3, 96, 96)
    assert source.mean == (0.5, 0.5, 0.5)
    assert source.std == (0.2, 0.2, 0.2)
    assert "the file says it is convnext_atto" in source.notes


def test_averaged_weights_are_taken_when_asked_for_and_mentioned_otherwise(tmp_path):
    model = tiny()
    ema = ModelEmaV3(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    path = trained(tmp_path, model, ema, **OPTIONS)
    plain, averaged = open_source(path), open_source(path, use_ema=True)
    assert_same(model, plain.model)
    assert_same(ema.module, averaged.model)
    assert any("--use-ema" in note for note in plain.notes)
    assert any("state_dict_ema" in note for note in averaged.notes)


def test_averaged_weights_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no averaged \(EMA\) weights"):
        open_source(trained(tmp_path, tiny(), **OPTIONS), use_ema=True)


@pytest.mark.slow
def test_what_the_user_says_wins_over_the_file(tmp_path):
    path = trained(tmp_path, tiny(), **OPTIONS)
    source = open_source(path, arch="convnext_femto", model_args={**SIZES, "drop_path_rate": 0.3})
    assert source.base.name == "convnext_femto"
    assert source.base.args["drop_path_rate"] == 0.3
    assert "--arch convnext_femto wins over convnext_atto, which the file names" in source.notes
    with pytest.raises(InputError, match=r"file \[10, 32\], model \[9, 32\]"):
        open_source(path, model_args={"num_classes": 9})


def test_options_that_the_weights_contradict_give_way(tmp_path):
    source = open_source(trained(tmp_path, tiny(), **{**OPTIONS, "num_classes": 1000}))
    assert source.base.args["num_classes"] == 10
    assert any("contradict" in note for note in source.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs",
    [{"depths": [10**6, 1, 1, 1]}, {"dims": [10**9] * 4}, {"checkpoint_path": "/etc/passwd"}],
)
def test_absurd_or_reaching_options_in_a_file_do_no_harm(tmp_path, kwargs):
    path = trained(tmp_path, tiny(), **{**OPTIONS, "model_kwargs": kwargs})
    with pytest.raises(InputError, match=r"has over \d+ parameters|hold the number|does not fit"):
        open_source(path)


@pytest.mark.slow
def test_a_checkpoint_without_options_is_inferred(tmp_path):
    model = timm.create_model("test_convnext2", num_classes=6).eval()
    source = open_source(trained(tmp_path, model))
    assert source.base.name == "test_convnext2"
    assert_same(model, source.model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf-hub:someone/model", "a_model_that_is_gone"])
def test_an_architecture_that_timm_lacks_is_inferred_instead(tmp_path, name):
    model = timm.create_model("test_convnext2").eval()
    source = open_source(trained(tmp_path, model, **{**OPTIONS, "model": name}))
    assert source.base.name == "test_convnext2"
    assert f"the file names {name}, which is not a timm architecture" in source.notes


WRAPPINGS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "best_acc": 1.0},
    "nested": lambda state: {"model": {"state_dict": state}},
    "ddp": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "ddp of compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "compiled ddp": lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
    "two deep": lambda state: {f"net.backbone.{k}": v for k, v in state.items()},
    "half": lambda state: {k: v.half() for k, v in state.items()},
    "with others": lambda state: {**state, "note": "hello", "epoch": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_state_dicts_are_found(tmp_path, wrapping):
    model = tiny().half().float()
    torch.save(WRAPPINGS[wrapping](model.state_dict()), tmp_path / "model.pth")
    assert_same(model, open_source(tmp_path / "model.pth", **NAMED).model)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors", "odd name"])
def test_every_file_format_is_read(tmp_path, kind):
    model = tiny()
    path = tmp_path / {"safetensors": "m.safetensors", "odd name": "m.weights"}.get(kind, "m.pth")
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind != "legacy")
    source = open_source(path, **NAMED)
    assert_same(model, source.model)
    path.write_bytes(b"\0" * path.stat().st_size)  # nothing of the model may live in the file
    assert_same(model, source.model)


def test_a_small_part_of_a_large_file_is_memory_of_its_own(tmp_path):
    model = tiny()
    held = {"state_dict": model.state_dict(), "optimizer": torch.randn(200_000)}
    torch.save(held, tmp_path / "m.pth")
    source = open_source(tmp_path / "m.pth", **NAMED)
    (tmp_path / "m.pth").write_bytes(b"\0" * (tmp_path / "m.pth").stat().st_size)
    assert_same(model, source.model)


def test_classes_channels_and_image_size_are_read_from_the_shapes(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=1, num_classes=3, in_chans=5, img_size=96
    ).eval()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    source = open_source(tmp_path / "m.pth", arch="vit_tiny_patch16_224", model_args={"depth": 1})
    assert source.base.args == {"depth": 1, "num_classes": 3, "in_chans": 5, "img_size": 96}
    assert source.input_size == (5, 96, 96)
    assert len(source.mean) == 5
    assert_same(model, source.model)


def test_a_headless_state_dict_is_a_model_without_classes(tmp_path):
    state = {k: v for k, v in tiny().state_dict().items() if not k.startswith("head.fc")}
    torch.save(state, tmp_path / "m.pth")
    source = open_source(tmp_path / "m.pth", **NAMED)
    assert source.model.num_classes == 0


def test_batch_norms_without_a_counter_are_whole(tmp_path):
    model = timm.create_model("test_resnet").eval()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "m.pth")
    assert_same(model, open_source(tmp_path / "m.pth", arch="test_resnet").model)


def official_convnext(state):
    """Names as in facebookresearch/ConvNeXt."""
    out = {}
    for name, value in state.items():
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv")
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", name)
        name = name.replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        out[name] = value[:, :, 0, 0] if "pwconv" in name and value.ndim == 4 else value
    return {"model": out}


def test_an_original_repository_s_names_are_put_into_timm_s(tmp_path):
    model = tiny()
    torch.save(official_convnext(model.state_dict()), tmp_path / "m.pth")
    args = {**SIZES, "num_classes": 10}
    source = open_source(tmp_path / "m.pth", arch="convnext_atto", model_args=args)
    assert_same(model, source.model)
    assert any("original repository" in note for note in source.notes)


@pytest.mark.slow
def test_a_state_dict_of_another_model_names_a_few_differences(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "m.pth")
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "m.pth", arch="convnext_pico", model_args={"depths": [1, 1, 1, 2]})
    said = str(error.value)
    assert "m.pth does not fit convnext_pico: 9 missing (stages.3.blocks.1.gamma, " in said
    assert "56 of another shape (stem.0.weight: file [8, 3, 4, 4], model [64, 3, 4, 4], " in said
    assert len(str(error.value)) < 500


def test_a_folder_that_timm_wrote_is_a_source(tmp_path):
    model = tiny()
    timm.models.save_for_hf(model, str(tmp_path / "hub"), safe_serialization=True)
    source = open_source(tmp_path / "hub")
    assert_same(model, source.model)
    assert source.base.args["num_classes"] == TINY["num_classes"]


def test_the_input_size_of_a_folder_that_timm_wrote_is_the_models(tmp_path):
    model = tiny()
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 96), "mean": (0.5,) * 3}
    timm.models.save_for_hf(model, str(tmp_path / "hub"), safe_serialization=True)
    source = open_source(tmp_path / "hub")
    assert (source.input_size, source.mean) == ((3, 64, 96), (0.5,) * 3)
    named = open_source(tmp_path / "hub", model_args={"in_chans": 3})
    assert named.input_size == (3, 64, 96)


@pytest.mark.parametrize("size", [[3, 64], [3, 0, 64], [3, 64, 10**9], "3x64x64", [3, 64.5, 64]])
def test_an_input_size_that_is_none_is_left_alone(size, tmp_path):
    timm.models.save_for_hf(tiny(), str(tmp_path / "hub"), safe_serialization=True)
    file = tmp_path / "hub" / "config.json"
    config = json.loads(file.read_text())
    config["pretrained_cfg"]["input_size"] = size
    file.write_text(json.dumps(config))
    assert open_source(tmp_path / "hub").input_size == (3, 224, 224)


def test_weights_can_go_with_the_user_s_own_architecture(tmp_path, monkeypatch):
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\ndef build(width=3):\n    return nn.Sequential(nn.Linear(width, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = {"module.0.weight": torch.randn(2, 4), "module.0.bias": torch.randn(2)}
    torch.save(state, tmp_path / "m.pth")
    source = open_source(tmp_path / "m.pth", arch="python:my_net:build", model_args={"width": 4})
    assert torch.equal(source.model[0].weight, state["module.0.weight"])
    with pytest.raises(InputError, match=r"does not fit python:my_net:build: 1 of another shape"):
        open_source(tmp_path / "m.pth", arch="python:my_net:build")


def test_an_arch_without_arguments_settles_what_the_shapes_leave_open(tmp_path):
    """As other scripts write it; resnet18 and resnetblur18 have weights of the same shapes."""
    import timm

    from dcnify.artifact import open_source

    weights = timm.create_model("resnet18", num_classes=10).state_dict()
    torch.save({"epoch": 1, "arch": "resnet18", "state_dict": weights}, tmp_path / "r18.pt")
    source = open_source(str(tmp_path / "r18.pt"))
    assert source.base.name == "resnet18"
    assert any("the file says it is resnet18" in note for note in source.notes)
