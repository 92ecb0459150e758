"""Attention in windows becomes a DCNv4 that inherits its projections and where it looks."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from support.models import recipe
from support.windows import Around, WindowAttention, look_at

import dcnify
from dcnify.artifact import open_source
from dcnify.errors import InputError

ROLE = "window_attention"
IMAGE = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def converted(model, init="transfer", images=IMAGE, **replace):
    model = copy.deepcopy(model).eval()
    return dcnify.convert(model, recipe(ROLE, init, **replace), images)


KINDS = {
    "plain": {},
    "written out": {"fused": False},
    "shifted": {"shift": 2},
    "padded": {"window": 5},
    "padded and shifted": {"window": 5, "shift": 2},
    "on a grid": {"spread": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_projections_carry_over(kind):
    net = Around(WindowAttention(**KINDS[kind]))
    dcn, old = converted(net).model.mixer.dcn, net.mixer
    for new, weight, bias in (
        (dcn.value_proj, old.qkv.weight[32:], old.qkv.bias[32:]),
        (dcn.output_proj, old.proj.weight, old.proj.bias),
    ):
        assert torch.allclose(new.weight, weight, atol=1e-5)
        assert torch.allclose(new.bias, bias, atol=1e-5)


class Normed(WindowAttention):
    """Whose values are no affine map of its input."""

    def attend(self, x):
        return super().attend(x / x.norm(dim=-1, keepdim=True))


def test_projections_that_cannot_be_read_start_fresh_and_say_so():
    result = converted(Around(Normed()))
    assert any("value projection" in text for text in result.report.warnings)
    assert result.model.mixer.dcn.value_proj.weight.norm() > 0


class Flipped(WindowAttention):
    """Whose values stand in another order than its keys, which axes do not tell."""

    def attend(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v.flip(2))
        return self.proj(y.transpose(1, 2).flatten(2))


class Misplaced(WindowAttention):
    """Which pads on all sides and crops at the end, so that nothing is where it was."""

    def forward(self, x):
        padded = super().forward(F.pad(x, (0, 0, 2, 2, 2, 2)))
        return padded[:, : x.shape[1], : x.shape[2]].contiguous()


@pytest.mark.parametrize("kind", [Flipped, Misplaced])
@pytest.mark.parametrize("init", ["transfer", "fit"])
def test_places_that_do_not_match_are_not_taken_for_projections(kind, init):
    result = converted(Around(kind()), init)
    assert any("projections start fresh" in text for text in result.report.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_fit_samples_where_the_position_bias_looks(kind):
    net = Around(WindowAttention(**KINDS[kind])).eval()
    old, step = net.mixer, (3, 4) if kind == "on a grid" else (1, 1)
    away = [(1, 0), (-1, 2)]
    with torch.no_grad():
        old.qkv.weight.copy_(torch.cat([torch.zeros(32, 16), torch.eye(16)]))
        old.bias.copy_(look_at(2, old.window, away))
        for one in (old.qkv.bias, old.proj.bias, old.proj.weight):
            one.zero_()
        old.proj.weight.fill_diagonal_(1)
    new = converted(net, "fit").model.mixer
    impulse = torch.zeros(1, 12, 16, 16)
    impulse[0, 6, 11] = 1
    with torch.no_grad():
        seen = new(impulse)[0].unflatten(-1, (2, 8)).mean(-1)
    for head, (dy, dx) in enumerate(away):
        assert seen[6 - dy * step[0], 11 - dx * step[1], head] == seen[..., head].max() > 0.2


def test_a_layer_without_a_position_bias_starts_as_by_transfer():
    net = Around(WindowAttention())
    with torch.no_grad():
        net.mixer.bias.zero_()
        net.mixer.qkv.bias[:32] = 0
    result = converted(net, "fit")
    assert any("positions alone" in text for text in result.report.warnings)


def test_calibration_brings_the_layer_closer():
    net = Around(WindowAttention(shift=2))
    images = torch.randn(24, 3, 12, 16)
    levels = [
        dcnify.convert(copy.deepcopy(net).eval(), recipe(ROLE, init), IMAGE, images).report.sites[0]
        for init in ("fit", "[fit, {method: calibrate, batches: 4, steps: 40, model_steps: 0}]")
    ]
    assert levels[1].sqnr_db > levels[0].sqnr_db + 1


SWIN = {
    "img_size": 32,
    "patch_size": 2,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (1, 2),
    "num_classes": 5,
    "strict_img_size": False,
    "drop_path_rate": 0.2,
}


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", **SWIN).eval()
    return model, converted(model, "fit", torch.randn(1, 3, 32, 32))


def test_a_swin_loads_as_it_was_saved(swin, tmp_path):
    _, result = swin
    dcnify.save(result, tmp_path / "out")
    loaded = dcnify.load(tmp_path / "out")
    x = torch.randn(2, 3, 32, 32)
    assert type(loaded) is type(result.model)
    assert torch.equal(loaded.eval()(x), result.model.eval()(x))


def test_it_takes_images_of_other_sizes(swin):
    _, result = swin
    assert result.model.eval()(torch.randn(1, 3, 40, 72)).shape == (1, 5)


def test_all_of_it_trains(swin):
    _, result = swin
    model = copy.deepcopy(result.model).train()
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    layers = [module for module in model.modules() if isinstance(module, dcnify.nn.DCNv4)]
    assert len(layers) == 4
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_no_window_is_left(swin):
    before, result = swin
    names = {type(module).__name__ for module in result.model.modules()}
    assert "WindowAttention" in {type(module).__name__ for module in before.modules()}
    assert "WindowAttention" not in names
    assert type(result.model) is type(before)


@pytest.mark.slow
@pytest.mark.parametrize("captured", [224, 272])  # where one stage is padded, and all are
def test_a_layer_takes_every_size_though_its_block_decided_by_it(tmp_path, captured):
    options = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4)}
    model = timm.create_model("tiny_vit_5m_224", num_classes=5, **options).eval()
    result = converted(model, images=torch.randn(1, 3, captured, captured))
    dcnify.save(result, tmp_path / "out")
    loaded = dcnify.load(tmp_path / "out").eval()
    for size in (272, 224, 96):
        x = torch.randn(1, 3, size, size)
        assert torch.equal(loaded(x), result.model.eval()(x))


@pytest.mark.slow
def test_a_block_that_decides_by_the_size_before_its_windows_says_where_it_stops(tmp_path):
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(embed_dim=16, depths=[1, 1, 1, 2], num_heads=[1, 2, 2, 4], num_labels=5)
    SwinForImageClassification(config).save_pretrained(tmp_path / "in")
    source = open_source(tmp_path / "in")
    result = converted(source.model.eval(), images=torch.randn(1, 3, 256, 256))
    dcnify.save(result, tmp_path / "out", source=source)
    loaded = dcnify.load(tmp_path / "out").eval()
    x = torch.randn(1, 3, 320, 256)
    assert torch.equal(loaded(x).logits, result.model.eval()(x).logits)
    with pytest.raises(InputError, match=r"min\(input_resolution\) <= self.window_size"):
        loaded(torch.randn(1, 3, 224, 224))
