"""An artifact is verified from its files alone, and what was changed in it is named."""

import dataclasses
import hashlib
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dcnify
from dcnify.artifact import Base, Verification, load, open_source, read_artifact, save, verify
from dcnify.artifact.golden import Golden, answer, golden_of, sample_of
from dcnify.errors import InputError

SMALL = {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32], "num_classes": 5, "ls_init_value": 1.0}
FORMS = ["out", "out.pt"]


@pytest.fixture(scope="module")
def converted():
    torch.manual_seed(0)
    source = open_source("timm:convnext_atto", model_args=SMALL)
    example = torch.randn(1, 3, 64, 64)
    return dcnify.convert(source.model, dcnify.Recipe.load("convnext"), example, example)


@pytest.fixture(scope="module")
def saved(converted, tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    for form in FORMS:
        save(converted, place / form)
    return place


@pytest.fixture(params=FORMS)
def either(saved, tmp_path, request):
    """A copy of the artifact, as a folder and as a file."""
    return shutil.copytree(saved, tmp_path / "copy") / request.param


@pytest.fixture
def out(saved, tmp_path):
    return shutil.copytree(saved / "out", tmp_path / "out")


def checked(path) -> Verification:
    return verify(read_artifact(path))


def verdicts(done: Verification) -> dict[str, bool | None]:
    return {check.name: check.passed for check in done.checks}


def detail(done: Verification, name: str) -> str:
    return next(check.detail for check in done.checks if check.name == name)


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def rehash(out, name):
    digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
    edit(out / "config.json", lambda config: config["dcnify"]["files"].update({name: digest}))


def test_an_intact_artifact_passes_every_check(either):
    done = checked(either)
    assert set(verdicts(done)) == {
        "hashes",
        "loading",
        "golden output",
        "operator",
        "operator's gradients",
    }
    assert all(check.passed for check in done.checks)
    assert not done.failed
    assert done.fidelity is None


def test_a_flipped_bit_in_the_weights_is_found_though_they_still_load(out):
    weights = bytearray((out / "model.safetensors").read_bytes())
    weights[-4] ^= 1  # the last bit of the last number
    (out / "model.safetensors").write_bytes(weights)
    done = checked(out)
    assert [check.name for check in done.failed] == ["hashes"]
    assert detail(done, "hashes") == "changed since it was written: model.safetensors"


@pytest.mark.parametrize("name", ["plan.json", "report.json", "recipe.yaml"])
def test_an_edited_text_is_named(out, name):
    (out / name).write_text((out / name).read_text() + "\n")
    done = checked(out)
    assert [check.name for check in done.failed] == ["hashes"]
    assert detail(done, "hashes") == f"changed since it was written: {name}"


def test_an_edited_tensor_in_a_pt_file_is_named(saved, tmp_path):
    held = torch.load(saved / "out.pt", weights_only=True)
    held["state_dict"]["head.fc.bias"] += 1
    torch.save(held, tmp_path / "out.pt")
    done = checked(tmp_path / "out.pt")
    assert verdicts(done)["hashes"] is verdicts(done)["golden output"] is False
    assert "state_dict" in detail(done, "hashes")


@pytest.mark.parametrize("keep", [0, 5, 1000, -10])
def test_truncated_weights_fail_and_the_rest_is_said_to_be_unknown(out, keep):
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[:keep])
    found = verdicts(checked(out))
    assert found["hashes"] is found["loading"] is False
    assert found["golden output"] is found["operator"] is None


def test_other_weights_under_a_right_hash_give_another_output(out):
    tensors = load_file(out / "model.safetensors")
    tensors["stages.0.blocks.0.conv_dw.dcn.value_proj.weight"].normal_()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    rehash(out, "model.safetensors")
    done = checked(out)
    assert [check.name for check in done.failed] == ["golden output"]
    (golden,) = done.failed
    assert golden.value > golden.limit


def test_another_plan_under_a_right_hash_gives_another_output(out):
    def grow(plan):
        plan["swaps"][0]["module"]["args"]["offset_scale"] = 2.0

    edit(out / "plan.json", grow)
    rehash(out, "plan.json")
    assert [check.name for check in checked(out).failed] == ["golden output"]


def test_a_part_without_a_hash_is_not_taken_for_intact(out):
    edit(out / "config.json", lambda config: config["dcnify"].update(files={}))
    done = checked(out)
    assert verdicts(done)["hashes"] is False
    for name in ("plan.json", "recipe.yaml", "model.safetensors", "golden.safetensors"):
        assert name in detail(done, "hashes")


def test_a_golden_output_that_is_lost_is_a_failure(out):
    (out / "golden.safetensors").unlink()
    found = verdicts(checked(out))
    assert found["hashes"] is found["golden output"] is False
    assert load(out)


@pytest.mark.parametrize(
    "change",
    [
        {"input": torch.zeros(3)},
        {"output": torch.zeros(2, 2)},
        {"input": torch.zeros(1, 4, 64, 64)},
        {"output": torch.zeros(3)},
        {"other": torch.zeros(3)},
    ],
)
def test_a_golden_file_of_something_else_fails_in_one_line(out, change):
    pair = load_file(out / "golden.safetensors")
    pair = change if "other" in change else {**pair, **change}
    save_file(pair, out / "golden.safetensors")
    rehash(out, "golden.safetensors")
    (check,) = checked(out).failed
    assert check.name == "golden output"
    assert "\n" not in check.detail


@pytest.mark.parametrize(
    "about",
    [[], {}, {"input_shape": [1, 3, 10**6, 10**6], "output_shape": [1, 5], "device": "cpu"}],
)
def test_a_damaged_description_of_the_golden_output_fails_in_one_line(out, about):
    edit(out / "config.json", lambda config: config["dcnify"].update(golden=about))
    assert "golden output" in [check.name for check in checked(out).failed]


def test_an_artifact_from_before_golden_outputs_loads_and_passes_with_a_remark(out):
    def older(config):
        del config["dcnify"]["golden"]
        del config["dcnify"]["files"]["golden.safetensors"]

    (out / "golden.safetensors").unlink()
    edit(out / "config.json", older)
    done = checked(out)
    assert not done.failed
    assert verdicts(done)["golden output"] is None
    assert "holds none" in detail(done, "golden output")
    assert load(out)


def test_overwriting_replaces_the_golden_output_too(converted, out):
    torch.manual_seed(1)
    source = open_source("timm:convnext_atto", model_args=SMALL)
    example = torch.randn(1, 3, 64, 64)
    other = dcnify.convert(source.model, dcnify.Recipe.load("convnext"), example, example)
    before = load_file(out / "golden.safetensors")["output"]
    save(other, out, overwrite=True)
    assert not torch.equal(before, load_file(out / "golden.safetensors")["output"])
    assert not checked(out).failed


@pytest.mark.slow
def test_a_model_in_training_is_saved_with_the_output_that_it_will_give(tmp_path):
    source = open_source("timm:mobilenetv3_small_050", model_args={"num_classes": 4})
    example = torch.randn(1, 3, 64, 64)
    recipe = dcnify.Recipe.load("mobilenet")
    result = dcnify.convert(source.model, recipe, example, example)
    for module in result.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    result.model.train()
    state = torch.random.get_rng_state()
    out = save(result, tmp_path / "out")
    assert result.model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not checked(out).failed


def test_a_model_that_does_not_run_is_saved_with_the_reason(converted, tmp_path):
    plan = dataclasses.replace(converted.plan, input_shape=(1, 7, 64, 64))
    example = dcnify.Example.of(torch.zeros(1, 7, 64, 64))
    out = save(dataclasses.replace(converted, plan=plan, example=example), tmp_path / "out")
    done = checked(out)
    assert not done.failed
    assert "does not run on an input of (1, 7, 64, 64)" in detail(done, "golden output")


def test_an_artifact_of_untrusted_code_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "def build():\n"
        "    conv = torch.nn.Conv2d(3, 3, 3, padding=1, groups=3)\n"
        "    return torch.nn.Sequential(conv, torch.nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    base = Base("python", "nets:build")
    example = torch.randn(1, 3, 8, 8)
    recipe = dcnify.Recipe.load("mobilenet")
    out = save(dcnify.convert(base.build(), recipe, example, example), tmp_path / "o", base=base)
    with pytest.raises(InputError, match=r"--trust-code"):
        checked(out)
    assert not verify(read_artifact(out), trust_code=True).failed


class Upsample(nn.Module):
    """A small input to a large output, and no parameter."""

    def forward(self, x):
        return {"maps": (x.repeat(1, 8, 2, 2), x)}


def test_a_large_output_is_sampled_and_a_large_input_repeats_what_is_stored():
    model = Upsample()
    golden = golden_of(model, (2, 3, 1030, 770))
    assert isinstance(golden, Golden)
    assert golden.input().shape == (1, 3, 1030, 770)
    stored = sum(tensor.nbytes for tensor in golden.tensors().values())
    assert stored < 5 * 2**20
    seen = answer(model, golden.input())
    assert math.prod(golden.output_shape) == seen.numel() > len(golden.sample)
    assert torch.equal(sample_of(seen), golden.sample)


def test_outputs_that_are_no_number_must_be_so_again(out):
    pair = load_file(out / "golden.safetensors")
    pair["output"][0] = math.nan
    save_file(pair, out / "golden.safetensors")
    rehash(out, "golden.safetensors")
    (check,) = checked(out).failed
    assert check.value == math.inf
