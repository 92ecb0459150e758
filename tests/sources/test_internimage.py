"""InternImage's weights as its repository and trainings hold them, opened without a hint."""

import json
import sys
import types

import pytest
import timm
import torch
from support.artifact_standin import assert_same
from support.internimage_files import TINY, VARIANTS, outputs, said_of, saved, tiny, unfilled
from torch import nn

import dcnify
from dcnify.artifact import open_source
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.search import identify
from dcnify.sources.state_dict import shapes_of


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1000, 21841, 7])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_model_is_told_by_its_shapes(name, classes):
    shapes = shapes_of(on_meta(lambda: timm.create_model(name, num_classes=classes)))
    found = identify(shapes, {}, "model.pth")
    assert found.candidate.name == name
    assert found.candidate.args == ({} if classes == 1000 else {"num_classes": classes})
    assert not found.sizes


@pytest.mark.slow
def test_a_published_checkpoint_opens_without_a_hint(tmp_path):
    model = timm.create_model("intern_image_t").eval()
    source = open_source(saved(tmp_path, {"model": model.state_dict()}))
    assert (source.base.name, source.base.args) == ("intern_image_t", {})
    assert source.input_size == (3, 224, 224)
    assert_same(model, source.model)


TRAINING = {"epoch": 3, "max_accuracy": 83.5, "lr_scheduler": {"base_lrs": [1e-3]}, "scaler": {}}


@pytest.mark.parametrize("holder", ["model", "module", "state_dict", None])
def test_training_state_around_the_weights_is_no_obstacle(tmp_path, holder):
    model = tiny()
    state = model.state_dict()
    source = open_source(saved(tmp_path, {**TRAINING, holder: state} if holder else state))
    assert_same(model, source.model)


def test_averaged_weights_are_taken_with_use_ema(tmp_path):
    model, averaged = tiny(), tiny()
    nn.init.ones_(averaged.head.weight)
    held = {"model": model.state_dict(), "model_ema": averaged.state_dict(), **TRAINING}
    path = saved(tmp_path, held)
    assert_same(model, open_source(path).model)
    assert_same(averaged, open_source(path, use_ema=True).model)


OWN = {
    "plain": ("intern_image_t", {}),
    "post norm": ("intern_image_s", {"num_classes": 4, "in_chans": 1}),
    "large": ("intern_image_h", {"depths": [1, 1, 6, 1], "post_norm_block_ids": [5]}),
    "giant": ("intern_image_g", {"depths": [1, 1, 12, 1], "post_norm_block_ids": [5, 11]}),
    "three levels": ("intern_image_t", {"depths": [1, 2, 1], "groups": [2, 4, 8]}),
    "narrow": ("intern_image_t", {"mlp_ratio": 2.0, "cls_scale": 2.0, "remove_center": True}),
    "odd groups": ("intern_image_t", {"channels": 24, "groups": [3, 6, 12, 24]}),
    "scaled": ("intern_image_t", {"layer_scale": 1.0, "res_post_norm": False}),
    "flash": ("flash_intern_image_t", {}),
    "flash, depthwise": ("flash_intern_image_s", {"groups": [1, 1, 2, 4]}),
    "flash, biases": ("flash_intern_image_l", {"num_classes": 0, "offset_scale": 1.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OWN)
def test_sizes_of_one_s_own_are_read_from_the_weights(tmp_path, kind):
    name, args = OWN[kind]
    args = {**args, "offset_scale": 1.0}
    model = tiny(name, **args)
    source = open_source(saved(tmp_path, model.state_dict()))
    assert_same(model, source.model)
    if args.get("in_chans") != 1:
        assert torch.equal(outputs(model), outputs(source.model))
    assert any("assumed" in note and "offset_scale=1.0" in note for note in source.notes)
    assert "inferred an InternImage of sizes of its own" in source.notes[0]


def test_an_offset_scale_of_one_s_own_can_be_said_without_the_sizes(tmp_path):
    model = tiny(offset_scale=2.0)
    path = saved(tmp_path, model.state_dict())
    source = open_source(path, model_args={"offset_scale": 2.0})
    assert torch.equal(outputs(model), outputs(source.model))
    assert not any("assumed" in note for note in source.notes)


def test_sizes_that_are_given_with_the_architecture_are_taken(tmp_path):
    model = tiny()
    source = open_source(
        saved(tmp_path, model.state_dict()), arch="intern_image_t", model_args=TINY
    )
    assert source.base.args == TINY
    assert_same(model, source.model)


def test_an_architecture_without_its_sizes_is_told_what_to_pass(tmp_path):
    path = saved(tmp_path, tiny().state_dict())
    assert (
        "did you mean --arch intern_image_t --model-arg channels=16 --model-arg depths=[1,2,3,1] "
        "--model-arg groups=[1,2,4,8]?"
    ) in said_of(path, arch="intern_image_t")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["intern_image_s", "flash_intern_image_t"])
def test_weights_of_another_variant_name_what_differs_and_the_variant(tmp_path, name):
    state = unfilled(on_meta(lambda: timm.create_model(name)))
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path)
    said = said_of(path, arch="intern_image_t")
    assert said.startswith(f"{path} does not fit intern_image_t: ")
    assert said.endswith(f"; did you mean --arch {name}?")
    for words in ("missing (", "unexpected (") if "flash" in name else ("file [40, 3, 3, 3]",):
        assert words in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"levels.999999.blocks.0.gamma1": torch.ones(1)},
        {"levels.0.blocks." + "9" * 5000 + ".gamma1": torch.ones(1)},
        {"patch_embed.conv2.weight": torch.ones(()).expand(10**9, 10**9, 3, 3)},
        {"levels.0.blocks.0.dcn.mask.weight": torch.ones(())},
        {"levels.0.blocks.0.mlp.fc1.weight": torch.ones(0, 16)},
        {"patch_embed.conv2.weight": torch.ones(0, 8, 3, 3)},
    ],
    ids=["level", "block", "channels", "groups", "hidden", "none"],
)
def test_absurd_shapes_are_refused_before_memory_is_taken(tmp_path, change):
    said_of(saved(tmp_path, {**tiny().state_dict(), **change}))


def flash_result(**options):
    torch.manual_seed(0)
    model = timm.create_model("intern_image_s", **{**TINY, **options}).eval()
    image = torch.randn(4, 3, 64, 64)
    return dcnify.convert(model, dcnify.Recipe.load("internimage-flash"), image[:1], image)


@pytest.mark.slow
def test_what_became_a_flash_model_is_saved_as_one(tmp_path):
    result = flash_result()
    dcnify.save(result, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "flash_intern_image_s"
    assert config["dcnify"]["base"]["name"] == "flash_intern_image_s"
    loaded = dcnify.load(tmp_path / "out")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image), result.model(image))
    weights = str(tmp_path / "out" / "model.safetensors")
    plain = timm.create_model("flash_intern_image_s", checkpoint_path=weights, **TINY).eval()
    with torch.no_grad():
        assert torch.equal(plain(image), result.model(image))


@pytest.mark.slow
def test_an_exact_conversion_keeps_its_base_and_loads_again(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("intern_image_h", **TINY, post_norm_block_ids=(1,)).eval()
    image = torch.randn(2, 3, 64, 64)
    result = dcnify.convert(model, dcnify.Recipe.load("internimage-exact"), image[:1], image)
    dcnify.save(result, tmp_path / "out.pt")
    loaded = dcnify.load(tmp_path / "out.pt")
    with torch.no_grad():
        assert torch.equal(loaded(image), result.model(image))


class CfgNode(dict):
    """As yacs has it: what the original's training writes beside the weights."""

    def __init__(self, entries):
        super().__init__(entries)
        self.__dict__["__immutable__"] = True


def test_a_training_checkpoint_with_its_settings_opens_without_trusting_it(tmp_path, monkeypatch):
    yacs = types.ModuleType("yacs.config")
    yacs.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", yacs)
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    model = tiny()
    settings = CfgNode({"MODEL": CfgNode({"TYPE": "intern_image", "DEPTHS": [1, 2, 3, 1]})})
    path = saved(tmp_path, {"model": model.state_dict(), "config": settings, "epoch": 299})
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    assert torch.equal(outputs(open_source(path).model), outputs(model))


def test_norms_between_blocks_are_taken_to_be_at_even_distances(tmp_path):
    model = tiny("intern_image_h", depths=[1, 1, 4, 1], post_norm_block_ids=[1, 3])
    source = open_source(saved(tmp_path, model.state_dict()))
    assert torch.equal(outputs(source.model), outputs(model))
    assert any("assumed" in note and "post_norm_block_ids=[1, 3]" in note for note in source.notes)


@pytest.mark.slow
def test_a_part_converted_first_and_the_rest_later_loads_again(tmp_path):
    torch.manual_seed(0)
    model, image = tiny("intern_image_s"), torch.randn(4, 3, 64, 64)
    some = dcnify.Recipe.load("internimage-flash", ["swaps.dcn.select.stages=[1, 2]"])
    dcnify.save(dcnify.convert(model, some, image[:1], image), tmp_path / "some")
    source = open_source(tmp_path / "some")
    rest = dcnify.Recipe.load("internimage-flash", ["swaps.dcn.replace.like=flash_intern_image_s"])
    result = dcnify.convert(source.model, rest, image[:1], image)
    dcnify.save(result, tmp_path / "all", source=source)
    loaded = dcnify.load(tmp_path / "all")
    with torch.no_grad():
        assert torch.equal(loaded(image), result.model(image))
    config = json.loads((tmp_path / "all" / "config.json").read_text())
    assert config["architecture"] == "flash_intern_image_s"
