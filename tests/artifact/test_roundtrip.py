"""What `save` writes, `load` gives back, bit for bit."""

import pytest
import timm
import torch
from support.artifact_standin import SITES, assert_same, converted, tiny

import dcnify
from dcnify.artifact import Base, load, open_source, read_artifact, save

OUTPUTS = ["out", "out.pt"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_loaded_artifact_computes_exactly_what_was_saved(result, tmp_path, name):
    written = save(result, tmp_path / name)
    loaded = load(written)
    assert_same(result.model, loaded)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(result.model(x), loaded(x))


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_loaded_model_is_in_evaluation_mode_and_can_be_trained(result, tmp_path, name):
    loaded = load(save(result, tmp_path / name))
    assert type(loaded) is type(result.model)
    assert not any(module.training for module in loaded.modules())
    loaded.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    torch.optim.SGD(loaded.parameters(), 0.1).step()


def test_loaded_weights_are_memory_of_their_own(result, tmp_path):
    out = save(result, tmp_path / "out")
    loaded = load(out)
    (out / "model.safetensors").write_bytes(b"\0" * (out / "model.safetensors").stat().st_size)
    assert_same(result.model, loaded)


def test_the_public_names_are_there(result, tmp_path):
    assert_same(result.model, dcnify.load(dcnify.save(result, tmp_path / "out")))


@pytest.mark.parametrize("name", OUTPUTS)
def test_bfloat16_weights_stay_bfloat16(stand_in, tmp_path, name):
    result = converted(tiny().bfloat16(), *SITES)
    result.model.bfloat16()
    assert_same(result.model, load(save(result, tmp_path / name)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_mixed_types_and_channels_last_survive(stand_in, tmp_path, name):
    result = converted(tiny().to(memory_format=torch.channels_last), *SITES)
    result.model.head.half()
    assert_same(result.model, load(save(result, tmp_path / name)))


TABLES = {  # models that compute buffers which no state dict holds
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "embed_dim": 32, "num_heads": (2, 4)},
    "swinv2_tiny_window8_256": {"depths": (2, 2), "embed_dim": 32, "num_heads": (2, 4)},
    "eva02_tiny_patch14_224": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "beit_base_patch16_224": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "vit_small_patch16_rope_224": {"depth": 1, "embed_dim": 64, "num_heads": 2},
    "hiera_tiny_224": {"stages": (1, 1), "embed_dim": 32, "q_pool": 1},
    "levit_128s": {"depth": (1, 1, 1)},
    "vit_tiny_patch16_224": {"depth": 1, "img_size": 64},
    "resnet18": {"in_chans": 1, "num_classes": 3},
    "test_vit_relpos": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_buffers_that_no_state_dict_holds_come_back(stand_in, tmp_path, name, dtype):
    model = timm.create_model(name, **TABLES[name]).eval().to(dtype)
    loaded = load(save(converted(model), tmp_path / "out"))
    assert_same(model, loaded)
    x = torch.randn(1, *open_source(tmp_path / "out").input_size).to(dtype)
    with torch.no_grad():
        assert torch.equal(model(x), loaded(x))


def test_a_resized_model_comes_back_at_its_new_size(stand_in, tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=1).eval()
    model.set_input_size((96, 160))
    loaded = load(save(converted(model), tmp_path / "out"))
    assert_same(model, loaded)
    assert loaded(torch.randn(1, 3, 96, 160)).shape == (1, 1000)


def test_modules_that_stand_in_two_places_stay_one(stand_in, tmp_path):
    args = {"serial_depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 16), "num_heads": 2}
    model = timm.create_model("coat_lite_tiny", **args).eval()
    saved = save(converted(model), tmp_path / "out")
    loaded = load(saved)
    assert_same(model, loaded)
    assert read_artifact(saved).aliases
    names = [name for name, _ in model.named_parameters(remove_duplicate=True)]
    assert [name for name, _ in loaded.named_parameters(remove_duplicate=True)] == names


@pytest.mark.parametrize("name", OUTPUTS)
def test_one_parameter_under_two_names_stays_one(stand_in, tmp_path, name):
    result = converted(tiny(), *SITES)
    block = result.model.stages[3].blocks[0]
    result.model.head.norm.weight = block.norm.weight
    loaded = load(save(result, tmp_path / name))
    assert loaded.head.norm.weight is loaded.stages[3].blocks[0].norm.weight
    assert_same(result.model, loaded)


def test_tensors_that_are_parts_of_one_are_stored_apart(stand_in, tmp_path):
    result = converted(tiny(), *SITES)
    both = torch.nn.Parameter(torch.randn(64))
    result.model.head.norm.weight.data = both.data[:32]
    result.model.head.norm.bias.data = both.data[16:48]
    for name in OUTPUTS:
        out = save(result, tmp_path / name)
        assert_same(result.model, load(out))
    assert out.stat().st_size < 4 * sum(p.nbytes for p in result.model.parameters())


def test_an_artifact_can_be_converted_again(result, tmp_path):
    save(result, tmp_path / "once")
    source = open_source(tmp_path / "once")
    assert source.plan == result.plan
    again = converted(source.model, ("stages.1.blocks.0.conv_dw", 16))
    loaded = load(save(again, tmp_path / "twice", source=source))
    assert_same(again.model, loaded)
    assert len(read_artifact(tmp_path / "twice").plan.swaps) == 3


def test_a_trained_artifact_is_saved_under_its_own_plan(result, tmp_path):
    source = open_source(save(result, tmp_path / "once"))
    again = type(result)(source.model, source.plan, result.report, result.recipe)
    save(again, tmp_path / "trained", source=source)
    assert len(read_artifact(tmp_path / "trained").plan.swaps) == len(SITES)


def test_loading_does_not_touch_the_random_state(stand_in, tmp_path):
    model = timm.create_model("test_vit_relpos")
    before = torch.random.get_rng_state()
    load(save(converted(model), tmp_path / "out"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_explicit_base_is_used(stand_in, tmp_path):
    result = converted(tiny(), *SITES)
    del result.model.pretrained_cfg
    args = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 10}
    saved = save(result, tmp_path / "out", base=Base("timm", "convnext_atto", args))
    assert_same(result.model, load(saved))
