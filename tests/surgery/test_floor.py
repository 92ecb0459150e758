"""What a recipe requires of the output: a conversion that lost everything is not a success."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from support import models
from support.decided import SITES, Decided, images, recipe
from torch import nn

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.surgery.fidelity import images as fidelity_images
from dcnify.surgery.fidelity.measurements import Measurements
from dcnify.surgery.require.revert import worst_first
from dcnify.surgery.result import SiteFidelity

X = images()
CALIBRATED = "[transfer, {method: calibrate, batches: 1, steps: 1, model_steps: 2}]"


def converted(required: str, model=None, init: str = "transfer", more: str = "", **options):
    model = Decided().eval() if model is None else model
    return dcnify.convert(model, recipe(required, init, more), X[:1], X, **options)


@torch.no_grad()
def agreement(model, original) -> float:
    return float((model(X).argmax(-1) == original(X).argmax(-1)).float().mean())


def test_below_the_floor_the_conversion_fails_and_says_what_to_do_next():
    model = Decided().eval()
    before, layers = model(X), list(model.blocks)
    with pytest.raises(CheckError) as failure:
        converted("{agreement: 0.9}", model)
    text = str(failure.value)
    assert failure.value.exit_code == 3
    assert "<string>:8:10: require not met: agreement" in text
    assert "% is below 90%" in text
    assert "--images DIR" in text
    assert "--set require.on_violation=warn" in text
    assert list(model.blocks) == layers
    assert torch.equal(model(X), before)


def test_a_recipe_that_says_warn_converts_and_warns():
    result = converted("{agreement: 0.9, on_violation: warn}")
    assert result.report.require.met is False
    assert len(result.plan.swaps) == len(SITES)
    assert any("require not met: agreement" in text for text in result.report.warnings)


@pytest.mark.parametrize(
    ("required", "words"),
    [
        ("{kl: 0.1}", "KL .* is above 0.1"),
        ("{cosine: 0.99}", "cosine .* is below 0.99"),
        ("{agreement: 1, kl: 0.1}", "agreement .*%, KL .* is above 0.1"),
    ],
)
def test_each_bound_is_held(required, words):
    with pytest.raises(CheckError, match=words):
        converted(required)
    assert converted("{agreement: 0, kl: 1000, cosine: -1}").report.require.met


def test_reverts_end_above_the_floor_and_take_the_worst_layers_first():
    model = Decided().eval()
    original = copy.deepcopy(model)
    result = converted("{agreement: 0.9, on_violation: revert}", model)
    assert agreement(model, original) >= 0.9
    assert result.report.output.top1_agreement == agreement(model, original)
    assert result.report.require.met
    back = [site.path for site in result.report.sites if site.reverted]
    kept = [site.path for site in result.report.sites if not site.reverted]
    assert back
    assert kept == [swap.site.path for swap in result.plan.swaps]
    assert {item.path for item in result.plan.skipped} >= set(back)
    assert all(f"reverted {path}" in " ".join(result.report.warnings) for path in back)
    db = {site.path: site.sqnr_db for site in result.report.sites}  # all cost the same here
    assert not kept or max(db[path] for path in back) <= min(db[path] for path in kept)


def test_reverts_take_few_measurements(monkeypatch):
    measured = []
    measure = Measurements.output_now
    monkeypatch.setattr(
        Measurements, "output_now", lambda self: measured.append(1) or measure(self)
    )
    converted("{kl: 0, on_violation: revert}")
    first, tried, last = 1, 2, 1  # of four layers 2, then 3
    assert len(measured) == first + tried + last


def test_with_all_layers_back_the_model_is_the_original_whatever_else_had_learned():
    model = Decided().eval()
    original = copy.deepcopy(model)
    result = converted("{kl: 0, on_violation: revert}", model, CALIBRATED)
    assert result.plan.swaps == ()
    ours, theirs = model.state_dict(), original.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_reverts_after_the_whole_model_has_learned_keep_what_it_learned_elsewhere():
    model = Decided().eval()
    result = converted("{agreement: 0.8, on_violation: revert}", model, CALIBRATED)
    assert result.report.require.met
    assert result.report.output.top1_agreement >= 0.8


def test_of_two_layers_that_err_alike_the_one_that_costs_more_goes_first():
    plan = dcnify.plan(Decided().eval(), recipe(), X[:1])
    swaps = list(plan.swaps)
    swaps[2] = replace(swaps[2], parameters=swaps[2].parameters + plan.model_parameters)
    errors = zip(SITES, (3.0, 3.0, 3.0, 8.0), strict=True)
    sites = [SiteFidelity(path, db, 0.5) for path, db in errors]
    order = [site.path for site in worst_first(replace(plan, swaps=tuple(swaps)), sites)]
    assert order == ["blocks.2", "blocks.0", "blocks.1", "blocks.3"]


def test_a_start_as_published_is_exempt_and_says_why():
    report = converted("{agreement: 0.9}", init="paper").report
    assert report.require.met is None
    assert "zero output on purpose" in report.require.reason


def test_a_handover_is_exempt_for_the_model_starts_as_the_original():
    report = converted("{agreement: 0.9}", more="    handover: true\n").report
    assert report.require.met is None
    assert "handover" in report.require.reason


@pytest.mark.parametrize("name", ["convnext_atto", "test_efficientnet", "vit_tiny"])
def test_an_untrained_model_is_told_by_its_predictions_and_converts(name):
    made = {
        "convnext_atto": models.tiny_convnext,
        "vit_tiny": models.tiny_vit,
        "test_efficientnet": lambda: timm.create_model("test_efficientnet").eval(),
    }[name]()
    role = "attention" if name == "vit_tiny" else "depthwise_conv"
    asked = models.recipe(role, more="require: {agreement: 1, kl: 0}\n")
    report = dcnify.convert(made, asked, torch.zeros(1, 3, 32, 32)).report
    assert report.require.met is None
    assert "untrained" in report.require.reason
    assert "untrained" in report.output.uninformative


def test_weights_that_are_known_to_be_random_are_exempt_however_sure_they_are():
    report = converted("{agreement: 0.9}", random_weights=True).report
    assert report.require.met is None
    assert report.output.uninformative == "the weights of the original are random"


def test_where_zeroing_the_layers_changes_nothing_the_output_is_not_informative():
    model = Decided(share=1e-6).eval()
    report = converted("{agreement: 0.9}", model).report
    assert report.output.top1_agreement == 1
    assert max(site.sqnr_db for site in report.sites) < 3
    assert "set to zero" in report.output.uninformative
    assert converted("").report.output.uninformative is None


def test_a_ruin_is_warned_of_even_if_nothing_is_required():
    report = converted("").report
    assert report.require is None
    assert any("agreement" in text and "--images DIR" in text for text in report.warnings)


def test_layers_below_0_db_are_named():
    model = Decided().eval()
    with torch.no_grad():  # others share the large kernel of a channel with small inputs
        model.stem.weight[0] *= 0.01
        model.stem.bias[0] = 0
        model.blocks[0].weight[0] *= 100
        model.blocks[0].weight[1:8] = 0
    report = converted("", model).report
    worse = {site.path: site for site in report.sites if site.sqnr_db < 0}
    assert "blocks.0" in worse
    (text,) = (text for text in report.warnings if "worse than an output of zeros" in text)
    assert all(f"{path} {site.sqnr_db:.1f} dB" in text for path, site in worse.items())
    assert f"{len(worse)} of 4 new layers" in text


def test_kl_is_that_of_torch():
    model = Decided().eval()
    original = copy.deepcopy(model)
    output = converted("", model).report.output
    with torch.no_grad():
        ours, theirs = (m(X).double().log_softmax(-1) for m in (model, original))
    expected = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    assert output.kl == pytest.approx(float(expected), rel=1e-6)


def test_an_output_without_classes_has_no_kl_and_cannot_miss_an_agreement():
    class Maps(Decided):
        def forward(self, x):
            for block in self.blocks:
                x = block(self.stem(x) if x.shape[1] == 3 else x)
            return x

    report = converted("{agreement: 0.9}", Maps().eval()).report
    assert report.output.kl is None
    assert report.require.met is None
    assert "(B, classes)" in report.require.reason
    with pytest.raises(CheckError, match="cosine"):
        converted("{agreement: 0.9, cosine: 0.99}", Maps().eval())


def test_features_have_no_classes_to_agree_on():
    model = Decided().eval()
    model.num_classes = 0  # as timm says of a model without a head
    result = converted("{agreement: 0.9, cosine: 0.5, on_violation: warn}", model)
    assert result.report.output.top1_agreement is None
    assert result.report.output.kl is None
    assert "cosine" in result.report.require.reason
    assert "agreement" not in result.report.require.reason


CLOSED = "[transfer, {method: calibrate, batches: 4, steps: 0, model_steps: 0}]"


def test_a_single_image_that_was_calibrated_on_meets_no_requirement():
    model = Decided().eval()
    before = model(X)
    asked = recipe("{agreement: 0.0}", CLOSED)
    with pytest.raises(CheckError, match=r"<string>:\d+:\d+: require not met.*--images DIR"):
        dcnify.convert(model, asked, X[:1], X[:1])
    assert torch.equal(model(X), before)


def test_an_example_that_may_be_noise_is_no_proof(monkeypatch):
    def missing(*_args, **_kwargs):
        raise InputError("no photographs")

    monkeypatch.setattr(fidelity_images, "load_images", missing)
    with pytest.raises(CheckError, match=r"install 'dcnify\[data\]'"):
        dcnify.convert(Decided().eval(), recipe("{agreement: 0.0}", CLOSED), X)
    warned = recipe("{agreement: 0.0, on_violation: warn}", CLOSED)
    result = dcnify.convert(Decided().eval(), warned, X)
    assert result.report.require.met is False
    assert any("require not met: nothing was measured" in one for one in result.report.warnings)


@pytest.mark.slow
def test_an_undecided_original_is_exempt_but_what_was_missed_is_said():
    class Undecided(Decided):
        def forward(self, x):
            return super().forward(x) / 100

    result = converted("{agreement: 0.99}", Undecided().eval())
    assert result.report.require.met is None
    assert any("would not be met: agreement" in text for text in result.report.warnings)
    again = Decided().eval()
    known = dcnify.convert(again, recipe("{agreement: 0.99}"), X[:1], X, random_weights=True)
    assert not any("would not be met" in text for text in known.report.warnings)


def test_a_model_with_a_broken_weight_is_not_converted_unless_told():
    model = Decided().eval()
    name = list(dict(model.named_parameters()))[-1]
    with torch.no_grad():
        model.get_parameter(name).flatten()[0] = float("nan")
    before = dict(model.named_modules())
    for required in ("null", "{agreement: 0}", "{agreement: 0, on_violation: revert}"):
        with pytest.raises(CheckError, match=f"{name} holds NaN or infinite values"):
            converted(required, model)
        assert dict(model.named_modules()) == before
    result = converted("{agreement: 0, on_violation: warn}", model)
    assert result.report.output.top1_agreement == 0
    assert any(f"{name} holds NaN" in line for line in result.report.warnings)


def test_running_statistics_of_nan_are_found_too():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16))
    model[2].running_var[3] = float("nan")
    with pytest.raises(CheckError, match=r"2\.running_var holds NaN"):
        dcnify.convert(model.eval(), models.recipe("depthwise_conv"), torch.randn(2, 3, 16, 16))
