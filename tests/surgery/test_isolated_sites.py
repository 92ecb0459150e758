"""Sites inside a larger forward are found, converted, saved, loaded and verified like any."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from support.blocks_by_hand import DIM, ConvBlock, Images, SdpaBlock, Tokens, TwoAttentions, models
from torch import nn

import dcnify
from dcnify.artifact import open_source, read_artifact, verify
from dcnify.errors import CheckError, InputError
from dcnify.graph.isolation.region import Region
from dcnify.surgery.handover import finish, set_blend
from dcnify.surgery.plan import Plan
from dcnify.surgery.prepare import prepare

NAMES = ("sdpa", "softmax", "image", "conv", "activated", "flat")
EXAMPLE = torch.zeros(2, 3, 32, 32)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def recipe(*roles: str, method: str = "fit", more: str = "") -> dcnify.Recipe:
    swaps = "".join(
        f"  - {{name: {role}, select: {{role: {role}}}, init: {method}{more},"
        " replace: {with: dcnv4, group_channels: 8}}\n"
        for role in roles
    )
    return dcnify.Recipe.from_yaml(f"version: 1\nname: r\nswaps:\n{swaps}", "r.yaml")


def roles_of(name: str) -> tuple[str, ...]:
    conv, attention = "depthwise_conv", "attention"
    return {"conv": (conv,), "activated": (conv,), "flat": (conv, attention)}.get(
        name, (attention,)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_site_inside_a_forward_is_found_and_the_model_is_not_touched(name):
    model = models()[name]
    before, names = model(images()), list(model.state_dict())
    sites = dcnify.find_sites(model, EXAMPLE)
    assert sorted(site.role for site in sites) == sorted(roles_of(name))
    assert all(site.path.endswith("_region") for site in sites)
    assert all(site.calls == (1 if name == "flat" else 2) for site in sites)
    assert not sites.near_misses
    assert list(model.state_dict()) == names
    torch.manual_seed(0)
    assert torch.equal(model.eval()(images()), model(images()))
    assert before.shape == (4, 10)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_converted_and_nothing_of_the_old_layer_is_left(name):
    model = models()[name].eval()
    original = copy.deepcopy(model)
    result = dcnify.convert(model, recipe(*roles_of(name)), EXAMPLE, images())
    paths = [swap.site.path for swap in result.plan.swaps]
    assert len(paths) == len(roles_of(name))
    assert not any(isinstance(module, Region) for module in model.modules())
    left = {k for k in model.state_dict() if not k.startswith(tuple(f"{p}." for p in paths))}
    gone = {k for k in original.state_dict() if k not in left}
    assert left < set(original.state_dict())
    assert sum(original.state_dict()[k].numel() for k in gone) == sum(
        swap.site.parameters for swap in result.plan.swaps
    )
    assert all(math.isfinite(site.sqnr_db) for site in result.report.sites)
    model(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", ["sdpa", "conv", "flat"])
def test_an_isolated_prepared_model_computes_the_same_bits(name):
    model = models()[name]
    plan = dcnify.plan(model, recipe(*roles_of(name)), EXAMPLE)
    prepared = copy.deepcopy(model)
    prepare(prepared, Plan.from_json(plan.to_json()))
    prepare(prepared, plan)  # once is enough
    for training in (False, True):
        outputs = []
        for one in (model, prepared):
            torch.manual_seed(1)
            outputs.append(one.train(training)(images()))
        assert torch.equal(*outputs)


@pytest.mark.parametrize("role", ["attention", "depthwise_conv"])
def test_an_artifact_repeats_the_isolation_and_verifies(role, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = "Tokens(SdpaBlock())" if role == "attention" else "Images(ConvBlock())"
    (tmp_path / f"by_hand_{role}.py").write_text(
        "import torch\nfrom support.blocks_by_hand import *\n\n\n"
        f"def build():\n    torch.manual_seed(3)\n    return {kind}\n"
    )
    spec = f"python:by_hand_{role}:build"
    source = open_source(spec, trust_code=True)
    result = dcnify.convert(source.model, recipe(role), EXAMPLE, images())
    out = dcnify.save(result, tmp_path / "out", source=source)
    loaded = dcnify.load(out, trust_code=True)
    assert torch.equal(loaded(images()), result.model.eval()(images()))
    assert json.loads((out / "plan.json").read_text())["isolations"][0]["block"] == "block"
    original = open_source(spec, trust_code=True)
    verification = verify(read_artifact(out), against=original, trust_code=True)
    assert not verification.failed, verification
    (swap,) = result.plan.swaps
    assert isinstance(original.model.get_submodule(swap.site.path), Region)


def test_a_site_that_is_reverted_leaves_the_block_as_it_was():
    model = Images(ConvBlock()).eval()
    expected, names = model(images()), list(model.state_dict())
    demands = ", require: {sqnr_db: 300, on_violation: revert}"
    result = dcnify.convert(model, recipe("depthwise_conv", more=demands), EXAMPLE, images())
    assert result.plan.swaps == result.plan.isolations == ()
    assert list(model.state_dict()) == names
    assert torch.equal(model(images()), expected)


def test_a_conversion_that_fails_leaves_the_model_as_it_was():
    model = Images(ConvBlock()).train()
    names = list(model.state_dict())
    demands = ", require: {sqnr_db: 300, on_violation: fail}"
    with pytest.raises(CheckError):
        dcnify.convert(model, recipe("depthwise_conv", more=demands), EXAMPLE, images())
    assert list(model.state_dict()) == names
    assert all(module.training for module in model.modules())
    assert "forward" not in vars(model.block)


def test_a_handover_starts_from_the_function_of_the_region():
    model = Tokens(SdpaBlock()).eval()
    expected = model(images())
    result = dcnify.convert(model, recipe("attention", more=", handover: true"), EXAMPLE, images())
    assert torch.equal(model(images()), expected)
    set_blend(model, 0)
    plan = finish(model, result.plan)
    assert plan.isolations == result.plan.isolations
    assert not any(isinstance(module, Region) for module in model.modules())


def test_training_goes_on_in_the_mode_the_model_was_in():
    model = Tokens(SdpaBlock()).train()
    dcnify.convert(model, recipe("attention"), EXAMPLE, images())
    assert all(module.training for module in model.modules())
    torch.manual_seed(0)
    first = model(images())
    assert not torch.equal(first, model(images()))  # DropPath still drops


def test_a_plan_written_before_there_were_isolations_is_read():
    model = Images(ConvBlock())
    data = json.loads(dcnify.plan(model, recipe("depthwise_conv"), EXAMPLE).to_json())
    del data["isolations"]
    assert Plan.from_json(json.dumps(data)).isolations == ()


def test_a_plan_from_a_stranger_names_what_is_wrong_with_its_isolations():
    model = Images(ConvBlock())
    plan = dcnify.plan(model, recipe("depthwise_conv"), EXAMPLE)
    data = json.loads(plan.to_json())
    data["isolations"][0]["fingerprint"] = "0"
    with pytest.raises(InputError, match=r"plan: block cannot be isolated .* forward of ConvBlock"):
        prepare(model, Plan.from_json(json.dumps(data)))
    data["isolations"][0]["name"] = ["x"]
    with pytest.raises(InputError, match="not a dcnify plan"):
        Plan.from_json(json.dumps(data))


def test_a_plan_of_another_version_names_the_key_that_is_not_known():
    plan = dcnify.plan(Images(ConvBlock()), recipe("depthwise_conv"), EXAMPLE)
    data = json.loads(plan.to_json())
    data["swaps"][0]["behind"] = None
    with pytest.raises(InputError, match=f"'behind' of the swap at {plan.swaps[0].site.path}"):
        Plan.from_json(json.dumps(data))


class Choosy(SdpaBlock):
    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError("tokens are a tensor")
        return super().forward(x)


def test_a_block_that_cannot_be_traced_is_a_near_miss_with_the_reason():
    sites = dcnify.find_sites(Tokens(Choosy()), EXAMPLE)
    assert not len(sites)
    (miss,) = sites.near_misses
    assert miss.path == "block"
    assert "residual" in miss.reason
    assert "cannot be traced: tokens are a tensor" in miss.reason
    assert "\n" not in miss.reason


def test_channels_of_a_functional_convolution_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, DIM, 4, stride=4)
            self.one, self.two = ConvBlock(), ConvBlock()
            self.two.dw_weight = self.one.dw_weight

        def forward(self, x):
            return self.two(self.one(self.stem(x))).mean((2, 3))

    model = Tied().eval()
    result = dcnify.convert(model, recipe("depthwise_conv"), EXAMPLE, images())
    assert len(result.plan.swaps) == 2
    assert not any("dw_weight" in name for name in model.state_dict())


@pytest.mark.slow
def test_of_two_attentions_in_one_forward_either_can_be_swapped_alone():
    model = Tokens(TwoAttentions()).eval()
    names, expected = set(model.state_dict()), model(images())
    sites = dcnify.find_sites(model, EXAMPLE)
    assert [site.path for site in sites] == ["block.attention_region", "block.attention_region_2"]
    prepared = copy.deepcopy(model)
    prepare(prepared, dcnify.plan(model, recipe("attention"), EXAMPLE))
    assert torch.equal(prepared(images()), expected)
    only = dcnify.Recipe.from_yaml(
        "version: 1\nname: r\nswaps:\n  - name: first\n"
        "    select: {role: attention, modules: block.attention_region}\n"
        "    replace: {with: dcnv4, group_channels: 8}\n"
    )
    result = dcnify.convert(model, only, EXAMPLE, images())
    assert [one.name for one in result.plan.isolations] == ["attention_region"]
    left = names - {"block.qkvs.0.weight", "block.qkvs.0.bias"}
    assert left == {name for name in model.state_dict() if "region" not in name}
