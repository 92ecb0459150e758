"""The part of a file that is the whole model is taken; what is left out is named."""

import pytest
import timm
import torch
from support.artifact_standin import assert_same

from dcnify.artifact import open_source
from dcnify.errors import InputError

ARCH = "test_convnext"


@pytest.fixture(scope="module")
def model():
    return timm.create_model(ARCH).eval()


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def opened(tmp_path, held, arch=ARCH, **options):
    torch.save(held, tmp_path / "m.pt")
    return open_source(tmp_path / "m.pt", arch=arch, **options)


ONE = torch.ones(1)
WHOLE = {
    "n_averaged": lambda state: {**under("module.", state), "n_averaged": torch.tensor(3)},
    "stem.0.total_ops": lambda state: {**state, "total_ops": ONE, "stem.0.total_ops": ONE},
    "criterion.weight": lambda state: {**under("model.", state), "criterion.weight": ONE},
    "val_acc.tp": lambda state: {"state_dict": {**under("net.", state), "val_acc.tp": ONE}},
    "queue": lambda state: {**under("module.encoder_q.", state), "queue": ONE},
    "decoder.weight": lambda state: {**state, "decoder.weight": ONE},
    "0.mean": lambda state: {**under("1.", state), "0.mean": ONE},
    "mask_token": lambda state: {**state, "mask_token": ONE},
}


@pytest.mark.parametrize("left", WHOLE)
def test_foreign_tensors_are_left_out_and_named(tmp_path, model, left):
    source = opened(tmp_path, WHOLE[left](model.state_dict()))
    assert_same(model, source.model)
    assert any("left out" in note and left in note for note in source.notes)


def test_a_head_of_one_s_own_leaves_a_model_without_classes(tmp_path, model):
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.fc")}
    own = {"head.fc.0.weight": torch.ones(5, 96), "head.fc.2.weight": torch.ones(2, 5)}
    source = opened(tmp_path, {**state, **own})
    assert source.model.num_classes == 0
    assert {k: v.shape for k, v in source.model.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    assert any("head.fc.0.weight, head.fc.2.weight" in note for note in source.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "args", "asked"),
    [
        ("convnext_atto", {"depths": (1, 1, 2, 1)}, {"depths": [1, 1, 1, 1]}),
        ("vit_tiny_patch16_224", {"depth": 1, "init_values": 1e-5}, {"depth": 1}),
        ("vit_tiny_patch16_224", {"depth": 1, "pre_norm": True}, {"depth": 1}),
        ("vit_tiny_patch16_224", {"depth": 1, "qk_norm": True}, {"depth": 1}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}, {"depth": 1}),
    ],
)
def test_a_variant_of_the_architecture_is_not_taken_for_it(tmp_path, arch, args, asked):
    state = timm.create_model(arch, **args).state_dict()
    name = "vit_tiny_patch16_224" if "deit" in arch else arch
    with pytest.raises(InputError, match=r"does not fit .* unexpected"):
        opened(tmp_path, state, arch=name, model_args=asked)


def test_layers_that_were_put_into_the_model_are_not_dropped(tmp_path, model):
    added = {"stages.0.blocks.0.adapter.weight": torch.ones(3)}
    with pytest.raises(InputError, match=r"1 unexpected \(stages.0.blocks.0.adapter.weight\)"):
        opened(tmp_path, {**model.state_dict(), **added})


def test_two_parts_that_fit_are_listed(tmp_path, model):
    state = model.state_dict()
    held = {**under("encoder_q.", state), **under("encoder_k.", state), "queue": ONE}
    with pytest.raises(InputError, match=r"holds 2 state dicts that fit .*encoder_q, encoder_k"):
        opened(tmp_path, held)


@pytest.mark.parametrize("name", ["teacher", "student", "backbone", "state.deep.net"])
def test_the_only_state_dict_is_found_under_any_key(tmp_path, model, name):
    held = model.state_dict()
    for part in reversed(name.split(".")):
        held = {part: held, "epoch": 1, "optimizer": {"state": {"a": {"exp_avg": ONE}}}}
    source = opened(tmp_path, held)
    assert_same(model, source.model)
    assert any(f"{name}." in note for note in source.notes)


def of_dino(model):
    student = {"module.backbone." + k: v for k, v in model.state_dict().items()}
    teacher = {"backbone." + k: v + 1 for k, v in model.state_dict().items()}
    return {
        "student": {**student, "module.head.mlp.0.weight": ONE},
        "teacher": {**teacher, "head.last_layer.weight_g": ONE},
        "dino_loss": {"center": ONE},
        "epoch": 1,
    }


def test_of_several_state_dicts_the_key_says_which(tmp_path, model):
    held = of_dino(model)
    with pytest.raises(InputError, match=r"student.backbone, teacher.backbone; say which with --k"):
        opened(tmp_path, held)
    assert_same(model, opened(tmp_path, held, key="student").model)
    taken = opened(tmp_path, held, key="teacher.backbone")
    for name, value in model.state_dict().items():
        assert torch.equal(taken.model.state_dict()[name], value + 1)


def test_a_key_that_is_not_there_is_told_those_that_are(tmp_path, model):
    with pytest.raises(InputError, match=r"no state dict under 'techer', did you mean 'teacher'"):
        opened(tmp_path, of_dino(model), key="techer")


def test_a_key_within_the_usual_place_is_found(tmp_path, model):
    held = {"state_dict": {**under("a.", model.state_dict()), **under("b.", model.state_dict())}}
    assert_same(model, opened(tmp_path, held, key="b").model)


def test_what_the_user_ignores_is_left_out(tmp_path, model):
    held = {**model.state_dict(), "stages.0.blocks.0.adapter.weight": ONE}
    source = opened(tmp_path, held, ignore=("*.adapter.*",))
    assert_same(model, source.model)
    assert any("ignored 1 that match '*.adapter.*'" in note for note in source.notes)
    with pytest.raises(InputError, match=r"--ignore \*.adaptor.\*: no name in .* matches"):
        opened(tmp_path, held, ignore=("*.adaptor.*",))


def test_odd_tensors_beside_the_model_do_no_harm(tmp_path, model):
    held = {**under("model.", model.state_dict()), "loss.queue": torch.eye(3).to_sparse()}
    assert_same(model, opened(tmp_path, held).model)


def test_views_that_would_fill_memory_are_refused(tmp_path):
    with torch.device("meta"):
        large = timm.create_model("convnext_xxlarge").state_dict()
    held = {name: torch.zeros(1).expand(value.shape) for name, value in large.items()}
    with pytest.raises(InputError, match=r"holds views that would take 3.2 GiB"):
        opened(tmp_path, held, "convnext_xxlarge")


def test_large_views_beside_the_model_are_left_where_they_are(tmp_path, model):
    held = {**model.state_dict(), "decoder": torch.zeros(1).expand(1 << 40)}
    source = opened(tmp_path, held, ignore=("decoder",))
    held = {**under("model.", model.state_dict()), "decoder": torch.zeros(1).expand(1 << 40)}
    beside = opened(tmp_path, held)
    (tmp_path / "m.pt").write_bytes(b"")
    for one in (source, beside):
        assert_same(model, one.model)


def test_of_averaged_and_plain_weights_the_plain_ones_are_taken(tmp_path, model):
    state = model.state_dict()
    held = {**under("model.", state), **under("ema_model.", {k: v + 1 for k, v in state.items()})}
    source = opened(tmp_path, held)
    assert_same(model, source.model)
    assert any("--key ema_model takes them" in note for note in source.notes)


def test_neither_norm_nor_head_is_a_model_of_feature_maps(tmp_path):
    """As FCMAE's published files are, in the names of its repository."""
    model = timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1)).eval()
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("head"):
            continue
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv")
        for stage in "123":
            name = name.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}.")
        name = name.replace(".blocks.", ".").replace("mlp.fc", "pwconv")
        if "mlp.grn" in name:
            name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            value = value.reshape(1, 1, 1, -1)
        state[name] = value
    source = opened(
        tmp_path, {"model": state}, "convnextv2_atto", model_args={"depths": [1, 1, 1, 1]}
    )
    images = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(images, intermediates_only=True)
    for mine, theirs in zip(source.model(images), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert any("feature maps" in note for note in source.notes)


def test_the_user_s_own_model_is_a_part_too(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(3, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    held = {"net.0.weight": torch.randn(2, 3), "net.0.bias": torch.randn(2), "loss.w": ONE}
    source = opened(tmp_path, held, "python:own_net:build")
    assert torch.equal(source.model[0].weight, held["net.0.weight"])
    assert any("loss.w" in note for note in source.notes)
