"""The converted model as a whole learns from the original, and nothing else is lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import models
from torch import nn

import dcnify
from dcnify.data import ImageBatch
from dcnify.surgery.calibrate import train_whole_model as whole
from dcnify.surgery.calibrate.train_whole_model import train_whole_model

_BLOBS = torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(3))
IMAGES = F.interpolate(_BLOBS, size=32, mode="bicubic")
LAYERS = "[transfer, {method: calibrate, batches: 18, steps: 30, model_steps: 0}]"
MODEL = LAYERS.replace("model_steps: 0", "model_steps: 40")
SHORT = "[transfer, {method: calibrate, batches: 8, steps: 10, model_steps: 16}]"
FEW = IMAGES[:48]
"""Where it matters that something is learned, and not how much."""


def tiny_convnext() -> nn.Module:
    return loud(models.tiny_convnext(ls_init_value=1.0))


def tiny_vit() -> nn.Module:
    return loud(models.tiny_vit())


@torch.no_grad()
def loud(model: nn.Module) -> nn.Module:
    """With weights as large as trained ones, so that blocks count beside what goes around them."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model


def convert(model: nn.Module, role: str, init: str, images=IMAGES, more: str = "", **options):
    return dcnify.convert(model, models.recipe(role, init, more), IMAGES[:1], images, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "role"), [(tiny_convnext, "depthwise_conv"), (tiny_vit, "attention")]
)
def test_the_output_is_closer_on_images_that_were_left_out(make, role):
    layers, model = (convert(make(), role, init).report for init in (LAYERS, MODEL))
    assert model.output.sqnr_db > layers.output.sqnr_db + 0.3  # by the processor: 0.9 or more
    assert [step.step for step in model.steps] == [
        "transfer",
        "calibrate: layers",
        "calibrate: model",
    ]
    assert model.steps[1].output == layers.output
    assert model.steps[-1].output == model.output
    assert model.steps[-1].sites == model.sites


@pytest.mark.slow
@pytest.mark.parametrize("start", ["transfer", "fit"])
def test_no_layer_ends_farther_from_the_old_one_than_it_started(start):
    model = tiny_convnext()
    with torch.no_grad():  # one layer of which little is left to learn, others of which much is
        kernel = model.stages[1].blocks[0].conv_dw.weight
        kernel.copy_(kernel[:1] * torch.rand(len(kernel), 1, 1, 1))
        kernel[:, :, 2:5, 2:5] *= 30
    report = convert(model, "depthwise_conv", MODEL.replace("transfer", start)).report
    assert report.steps[-1].output.sqnr_db > report.steps[1].output.sqnr_db
    for first, last in zip(report.steps[0].sites, report.steps[-1].sites, strict=True):
        assert last.sqnr_db >= first.sqnr_db, first.path


@pytest.mark.slow
def test_a_layer_that_is_exact_already_is_left_alone():
    model = tiny_convnext()
    few = MODEL.replace("steps: 30", "steps: 2").replace("model_steps: 40", "model_steps: 8")
    exact = models.recipe("depthwise_conv", few, kernel_size=7, group_channels=1)
    expected = copy.deepcopy(model)(IMAGES)
    dcnify.convert(model, exact, IMAGES[:1], IMAGES)
    assert torch.allclose(model(IMAGES), expected, atol=1e-4)


@pytest.mark.slow
def test_what_is_frozen_stays_and_what_is_not_may_change():
    model = tiny_convnext()
    model.stem.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    convert(model, "depthwise_conv", SHORT, FEW)
    after = model.state_dict()
    same = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("stem")} <= same
    assert "stages.1.blocks.0.mlp.fc1.weight" not in same
    assert [p.requires_grad for p in model.stem.parameters()] == [False] * 4
    assert all(p.requires_grad for p in model.stages.parameters())
    assert all(p.grad is None for p in model.parameters())


class Interrupted(Exception):
    pass


@pytest.mark.slow
def test_a_conversion_that_is_interrupted_leaves_every_weight_as_it_was():
    model = tiny_convnext()
    before, layers = copy.deepcopy(model.state_dict()), list(model.modules())

    def progress(what: str, done: int, total: int) -> None:
        if what == "learning from the original" and done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        convert(model, "depthwise_conv", SHORT, FEW, progress=progress)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(mine is theirs for mine, theirs in zip(model.modules(), layers, strict=True))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_a_layer_that_is_reverted_is_the_original_module_untouched():
    model = tiny_convnext()
    old = {path: module for path, module in model.named_modules() if path.endswith("conv_dw")}
    before = {path: copy.deepcopy(module.state_dict()) for path, module in old.items()}
    swap = f"replace: {{with: dcnv4, group_channels: 8}}, init: {SHORT}"
    both = dcnify.Recipe.from_yaml(
        "version: 1\nname: test\nswaps:\n"
        "  - {name: strict, select: {role: depthwise_conv, stages: [2]}, "
        f"require: {{sqnr_db: 90, on_violation: revert}}, {swap}}}\n"
        f"  - {{name: others, select: {{role: depthwise_conv}}, {swap}}}\n"
    )
    result = dcnify.convert(model, both, IMAGES[:1], FEW)
    reverted = [site.path for site in result.report.sites if site.reverted]
    assert reverted == ["stages.2.blocks.0.conv_dw", "stages.2.blocks.1.conv_dw"]
    for path in reverted:
        assert model.get_submodule(path) is old[path]
        state = old[path].state_dict()
        assert all(torch.equal(state[key], before[path][key]) for key in state)
    assert [swap.site.stage for swap in result.plan.swaps] == [0, 1, 3]
    assert result.report.steps[-1].step == "calibrate: model"
    assert len(result.report.steps[-1].sites) == 5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_nobody_elses_random_numbers_change():
    made = []
    for seed in (1, 1, 2):
        model = tiny_convnext()
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
        report = convert(model, "depthwise_conv", SHORT, FEW, seed=seed).report
        assert report.output != report.steps[1].output, "as a whole it has learned as well"
        assert torch.equal(torch_state, torch.get_rng_state())
        assert (numpy_state == np.random.get_state()[1]).all()
        made.append(model.state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert not all(torch.equal(made[0][key], made[2][key]) for key in made[0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_and_stays_half_precision(dtype):
    recipe = models.recipe("depthwise_conv", SHORT.replace("model_steps: 16", "model_steps: 40"))
    after = dcnify.convert(tiny_convnext().to(dtype), recipe, IMAGES[:1].to(dtype), FEW)
    assert {p.dtype for p in after.model.parameters()} == {dtype}
    layers, model = after.report.steps[1:]
    assert model.output == after.report.output
    assert model.output.sqnr_db > layers.output.sqnr_db


@pytest.mark.slow
def test_feature_maps_are_learned_where_there_are_no_classes():
    features = nn.Sequential(*list(tiny_convnext().children())[:2]).eval()
    layers, model = convert(features, "depthwise_conv", SHORT, FEW).report.steps[1:]
    assert model.output.top1_agreement is None
    assert model.output.sqnr_db > layers.output.sqnr_db


@pytest.mark.slow
def test_a_model_that_goes_on_in_place_is_learned_from_all_the_same():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, stride=2)
            self.conv = nn.Conv2d(16, 16, 7, padding=3, groups=16)
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            x = self.stem(x)
            y = self.conv(x).mul_(-2).relu_()
            x += y
            return self.head(x.mean((2, 3)))

    report = convert(loud(InPlace().eval()), "depthwise_conv", MODEL).report
    layers, model = report.steps[1], report.steps[2]
    assert model.output.sqnr_db > layers.output.sqnr_db
    assert model.sites[0].sqnr_db > layers.sites[0].sqnr_db - 1


@pytest.mark.slow
def test_labels_say_how_many_images_are_right_before_and_after():
    model = tiny_convnext()
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    labels[:12] = (labels[:12] + 1) % 5  # of the 24 that are measured, half are wrong
    images = ImageBatch(IMAGES, tuple(map(str, range(96))), (), "test", labels)
    report = convert(model, "depthwise_conv", MODEL, images).report
    assert report.output.original_accuracy == 0.5
    assert 0 <= report.output.accuracy <= 1
    assert report.output.accuracy != report.steps[0].output.accuracy or report.output.accuracy > 0.2


@pytest.mark.slow
def test_images_of_several_sizes_are_learned_from():
    sizes = [IMAGES[:8], F.interpolate(IMAGES[8:16], size=(32, 48)), IMAGES[16:19]]
    report = convert(tiny_convnext(), "depthwise_conv", SHORT, sizes).report
    assert report.images["calibrated_on"] == 14


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_few_images_do_not_stop_it(count):
    report = convert(tiny_convnext(), "depthwise_conv", SHORT, IMAGES[:count]).report
    layers, model = report.steps[1:]
    assert model.step == "calibrate: model"
    assert model.output.kl <= layers.output.kl
    assert model.output != layers.output or "came no closer" in report.warnings[-1]


def test_learning_never_ends_worse_than_it_began_on_the_images_left_out():
    torch.manual_seed(1)
    original = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    original(IMAGES[:1])
    model = copy.deepcopy(original)
    nn.init.normal_(model[0].weight)
    before, after = train_whole_model(model, original, ["0"], [IMAGES], 40)
    assert after < 0.7 * before
    same = copy.deepcopy(original)
    assert train_whole_model(same, original, ["0"], [IMAGES], 20) == (0.0, 0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(same.parameters(), original.parameters(), strict=True)
    )


def test_what_comes_no_closer_is_tried_again_at_a_tenth_of_the_rate(monkeypatch):
    for name in ("LEARNING_RATE", "LEARNING_RATE_OF_OTHERS"):
        usual = getattr(whole, name)
        monkeypatch.setattr(whole, name, 30 * usual)
    init = SHORT.replace("model_steps: 16", "model_steps: 30")
    result = convert(tiny_convnext(), "depthwise_conv", init, FEW)
    layers, model = result.report.steps[1:]
    assert model.step == "calibrate: model"
    assert model.output.kl < layers.output.kl
    assert not any("came no closer" in line for line in result.report.warnings)
