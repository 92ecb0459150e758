"""InternImage's weights as its repositories and their users hold them, opened without a hint."""

import json
import sys
import types

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.artifact_standin import assert_same, converted
from torch import nn

import dcnify
from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.search import identify
from dcnify.sources.state_dict import shapes_of

VARIANTS = [
    *(f"intern_image_{size}" for size in ("t", "s", "b", "l", "xl", "h", "g")),
    *(f"flash_intern_image_{size}" for size in ("t", "s", "b", "l")),
]
TINY = {"channels": 16, "depths": [1, 2, 3, 1], "groups": [1, 2, 4, 8]}


def tiny(name="intern_image_t", **args):
    """Every weight random, so that one put in another's place is seen."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**TINY, **args}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def ported(state):
    """Names as in the Hugging Face port."""
    return {"model." + name.replace("gamma", "layer_scale"): value for name, value in state.items()}


def in_a_segmenter(state, **others):
    """As mmcv writes a checkpoint; the backbone has no classifier."""
    head = ("conv_head", "head.", "dcnv3_head", "clip_projector", "fc_norm")
    held = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(head)}
    for name, count in {"decode_head": 3, "neck": 2, **others}.items():
        held |= {f"{name}.convs.{i}.weight": torch.randn(2, 2) for i in range(count)}
    meta = {"epoch": 12, "config": "model = dict()", "CLASSES": ("wall", "sky")}
    return {"meta": meta, "state_dict": held, "optimizer": {"state": {}, "param_groups": []}}


def saved(tmp_path, held, name="model.pth"):
    torch.save(held, tmp_path / name)
    return tmp_path / name


def outputs(model):
    torch.manual_seed(1)
    with torch.no_grad():
        return model(torch.randn(1, 3, 64, 64))


def unfilled(model):
    """A state dict that takes no memory, however large the model."""
    return {k: torch.zeros(()).expand(v.shape) for k, v in model.state_dict().items()}


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
@pytest.mark.parametrize("neck", [2, 0], ids=["in a segmenter", "alone"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_published_backbone_is_told_by_its_shapes(name, neck):
    state = unfilled(on_meta(lambda: timm.create_model(name)))
    held = in_a_segmenter(state, neck=neck, decode_head=neck)["state_dict"]
    found = identify(shapes_of(held), {}, "model.pth")
    assert (found.candidate.name, found.candidate.args) == (name, {"features_only": True})
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


@pytest.mark.slow
def test_a_detector_s_tiny_model_has_layer_scales_and_the_published_size(tmp_path):
    """The published detection configurations give T a layer scale."""
    state = unfilled(on_meta(lambda: timm.create_model("intern_image_t", layer_scale=1.0)))
    found = identify(shapes_of(in_a_segmenter(state)["state_dict"]), {}, "model.pth")
    assert found.candidate.name == "intern_image_t"
    assert found.sizes == {"layer_scale": 1e-5}


def test_sizes_that_are_given_with_the_architecture_are_taken(tmp_path):
    model = tiny()
    source = open_source(
        saved(tmp_path, model.state_dict()), arch="intern_image_t", model_args=TINY
    )
    assert source.base.args == TINY
    assert_same(model, source.model)


def said_of(path, **options):
    with pytest.raises(InputError) as error:
        open_source(path, **options)
    said = str(error.value)
    assert error.value.exit_code == 2
    assert len(said.splitlines()) == 1
    assert len(said) < 700
    return said


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
@pytest.mark.parametrize("name", ["intern_image_t", "intern_image_s", "flash_intern_image_s"])
def test_a_segmentation_checkpoint_gives_its_backbone(tmp_path, name):
    model = tiny(name)
    source = open_source(saved(tmp_path, in_a_segmenter(model.state_dict())))
    assert source.base.args["features_only"] is True
    assert "left out 5 tensors beside it: 3 of decode_head, 2 of neck" in source.notes
    assert any("gives feature maps" in note for note in source.notes)
    with torch.no_grad():
        maps = model.forward_intermediates(torch.ones(1, 3, 64, 64), intermediates_only=True)
        for mine, other in zip(maps, source.model(torch.ones(1, 3, 64, 64)), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.slow
def test_a_backbone_takes_the_architecture_that_is_named(tmp_path):
    path = saved(tmp_path, in_a_segmenter(tiny().state_dict()))
    source = open_source(path, arch="intern_image_t", model_args=TINY)
    assert source.base.args == {**TINY, "features_only": True}
    assert "--arch intern_image_t --model-arg channels=16" in said_of(path, arch="intern_image_s")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "model.", "backbone."])
def test_a_backbone_alone_is_one_too(tmp_path, prefix):
    held = in_a_segmenter(tiny().state_dict(), decode_head=0, neck=0)["state_dict"]
    held = {prefix + name.removeprefix("backbone."): value for name, value in held.items()}
    assert open_source(saved(tmp_path, held)).base.args["features_only"] is True


@pytest.mark.slow
def test_a_detector_with_two_backbones_is_not_guessed_at(tmp_path):
    state = in_a_segmenter(tiny().state_dict())["state_dict"]
    both = {
        f"{who}.{name}": value for who in ("student", "teacher") for name, value in state.items()
    }
    said_of(saved(tmp_path, both))


@pytest.mark.parametrize(
    "name", ["test_convnext2", "test_resnet", "test_efficientnet", "convnext_atto"]
)
def test_other_architectures_backbones_are_found_the_same_way(tmp_path, name):
    model = timm.create_model(name, features_only=True)
    whole = timm.create_model(name)
    names = {own.replace(".", "_"): own for own in whole.state_dict()}
    state = {names[k.replace(".", "_")]: v for k, v in model.state_dict().items()}
    source = open_source(saved(tmp_path, in_a_segmenter(state)), arch=name)
    assert source.base.args == {"features_only": True}
    assert_same(model.eval(), source.model)


def test_a_backbone_goes_with_the_user_s_own_architecture(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = {"0.weight": torch.randn(2, 3), "0.bias": torch.randn(2)}
    path = saved(tmp_path, in_a_segmenter(state))
    source = open_source(path, arch="python:my_backbone:build")
    assert torch.equal(source.model[0].weight, state["0.weight"])
    assert any("left out 5 tensors" in note for note in source.notes)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "out.pt"])
@pytest.mark.parametrize("known", [True, False])
def test_a_backbone_is_saved_and_loaded(stand_in, tmp_path, output, known):
    source = open_source(saved(tmp_path, in_a_segmenter(tiny().state_dict())))
    result = converted(source.model)
    dcnify.save(result, tmp_path / output, source=source if known else None, base=source.base)
    loaded = dcnify.load(tmp_path / output)
    assert_same(source.model, loaded)
    for mine, other in zip(outputs(source.model), outputs(loaded), strict=True):
        assert torch.equal(mine, other)
    again = open_source(tmp_path / output)
    assert again.base == source.base
    assert again.input_size == (3, 224, 224)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["intern_image_t", "intern_image_s"])
def test_the_hugging_face_port_s_weights_are_read(tmp_path, file, name):
    model = tiny(name)
    write = save_file if file.endswith("safetensors") else torch.save
    write(ported(model.state_dict()), tmp_path / file)
    source = open_source(tmp_path / file)
    assert_same(model, source.model)
    assert torch.equal(outputs(model), outputs(source.model))
    assert any("Hugging Face port" in note for note in source.notes) == (name[-1] == "s")


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS[:7])
def test_every_model_of_the_hugging_face_port_is_told_by_its_shapes(tmp_path, name):
    state = ported(unfilled(on_meta(lambda: timm.create_model(name))))
    said = said_of(saved(tmp_path, state), arch="test_resnet")
    assert said.endswith(f"; did you mean --arch {name}?")


def hub_config(**args):
    """As `save_pretrained` writes it beside the port's weights."""
    return {
        "architectures": ["InternImageModelForImageClassification"],
        "auto_map": {"AutoModel": "modeling_internimage.InternImageModel"},
        "model_type": "internimage",
        "core_op": "DCNv3",
        **TINY,
        "mlp_ratio": 4.0,
        "layer_scale": None,
        "offset_scale": 1.0,
        "post_norm": False,
        "res_post_norm": False,
        "dw_kernel_size": None,
        "level2_post_norm": False,
        "level2_post_norm_block_ids": None,
        "center_feature_scale": False,
        "use_clip_projector": False,
        "remove_center": False,
        "num_classes": 1000,
        "cls_scale": 1.5,
        "norm_layer": "LN",
        "with_cp": False,
        **args,
    }


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"layer_scale": 1e-5, "post_norm": True, "offset_scale": 2.0, "num_classes": 5},
        {"depths": [1, 1, 4, 1], "post_norm_block_ids": [0, 2], "dw_kernel_size": 5},
    ],
    ids=["plain", "post norm", "further norms"],
)
def test_a_folder_of_the_hugging_face_port_is_a_source(tmp_path, args):
    model = tiny(**args)
    ids = args.get("post_norm_block_ids")
    config = hub_config(**args, level2_post_norm=bool(ids), level2_post_norm_block_ids=ids)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(ported(model.state_dict()), tmp_path / "model.safetensors")
    source = open_source(tmp_path)
    assert source.base.name == "intern_image_t"
    assert_same(model, source.model)
    assert torch.equal(outputs(model), outputs(source.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", [{"depths": [10**6] * 4}, {"channels": 10**9}, {"groups": "all"}, {"depths": None}]
)
def test_an_absurd_folder_of_the_port_does_no_harm(tmp_path, args):
    (tmp_path / "config.json").write_text(json.dumps(hub_config(**args)))
    save_file(ported(tiny().state_dict()), tmp_path / "model.safetensors")
    said_of(tmp_path)


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
