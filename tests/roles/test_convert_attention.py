"""Converting attention: prefix tokens and projections."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from support.converted_attention import IMAGE, MAP, close, convert, with_layout
from support.models import OnImage, SelfAttention, recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.nn import PrefixAttention


def tokens(model, path="blocks.0.attn"):
    """What reaches the module at ``path``."""
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        model(IMAGE)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3}, {"qkv_bias": False}])
def test_attending_prefix_tokens_come_out_exactly_as_before(options):
    model = tiny_vit(**options)
    x, old = tokens(model), copy.deepcopy(model.blocks[0].attn)
    convert(model)
    new = model.blocks[0].attn
    assert isinstance(new.prefix_attn, PrefixAttention)
    prefix = new.prefix_tokens
    assert prefix == 1 + options.get("reg_tokens", 0)
    assert close(new(x)[:, :prefix], old(x)[:, :prefix])


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
def test_attention_with_more_than_projections_keeps_the_original_for_prefix_tokens(name):
    torch.manual_seed(0)
    model = timm.create_model(name, depth=1, embed_dim=48, num_heads=2, img_size=56).eval()
    nn.init.normal_(model.cls_token)
    image = torch.randn(1, 3, 56, 56)
    old = copy.deepcopy(model.blocks[0].attn)
    inputs = []
    hook = model.blocks[0].attn.register_forward_pre_hook(
        lambda _, a, k: inputs.append((a, k)), with_kwargs=True
    )
    model(image)
    hook.remove()
    result = convert(model, image)
    new = model.blocks[0].attn
    assert isinstance(new.prefix_attn, type(old))
    args, kwargs = inputs[0]
    assert close(new(*args, **kwargs)[:, :1], old(*args, **kwargs)[:, :1])
    assert any("whole original attention" in n for n in result.plan.swaps[0].notes)


def test_identity_hands_prefix_tokens_through():
    model = tiny_vit()
    x = tokens(model)
    convert(model, prefix="identity")
    assert torch.equal(model.blocks[0].attn(x)[:, :1], x[:, :1])


def test_mean_gives_prefix_tokens_the_projected_mean_of_the_grid():
    model = tiny_vit()
    x = tokens(model)
    convert(model, prefix="mean")
    layer = model.blocks[0].attn
    mean = x[:, 1:].mean(1, keepdim=True)
    assert close(layer(x)[:, :1], layer.dcn.output_proj(layer.dcn.value_proj(mean)))


def test_transfer_copies_the_value_and_output_projections():
    model = tiny_vit()
    attn = model.blocks[0].attn
    value, output = attn.qkv.weight[48:].clone(), attn.proj.weight.clone()
    value_bias, output_bias = attn.qkv.bias[48:].clone(), attn.proj.bias.clone()
    convert(model)
    dcn = model.blocks[0].attn.dcn
    assert close(dcn.value_proj.weight, value)
    assert close(dcn.output_proj.weight, output)
    assert torch.allclose(dcn.value_proj.bias, value_bias, atol=1e-6)
    assert torch.allclose(dcn.output_proj.bias, output_bias, atol=1e-6)


def test_transfer_starts_as_a_local_average():
    model = tiny_vit(class_token=False, global_pool="avg")
    x, attn = tokens(model), copy.deepcopy(model.blocks[0].attn)
    convert(model)
    value = attn.qkv(x)[..., 48:].transpose(1, 2).unflatten(2, (4, 4))
    mean = F.avg_pool2d(value, 3, 1, 1, count_include_pad=True).flatten(2).transpose(1, 2)
    assert close(model.blocks[0].attn(x), attn.proj(mean))


@pytest.mark.parametrize("need_weights", [True, False])
def test_projections_are_read_with_heads_folded_into_the_batch(need_weights):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.attn(x, x, x, need_weights=need_weights)[0].mean(1)

    torch.manual_seed(0)
    model = Block().eval()
    value, output = model.attn.in_proj_weight[32:].clone(), model.attn.out_proj.weight.clone()
    result = dcnify.convert(model, recipe("attention"), MAP, calibration=MAP)
    assert not [text for text in result.report.warnings if "worse than" not in text]
    assert close(model.attn.dcn.value_proj.weight, value)
    assert close(model.attn.dcn.output_proj.weight, output)


def test_a_value_width_unlike_the_channels_is_composed_into_one_projection():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(16, 8), nn.Linear(16, 8)
            self.v, self.proj = nn.Linear(16, 32), nn.Linear(32, 16)
            self.layout = "BNC"

        def forward(self, x):
            q, k, v = (f(x).unflatten(2, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.proj((q @ k.mT).softmax(-1).matmul(v).transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    wide = Wide()
    model = with_layout(OnImage(wide).eval())
    product = wide.proj.weight @ wide.v.weight
    dcnify.convert(model, recipe("attention"), MAP, calibration=MAP)
    dcn = model.mixer.dcn
    assert close(dcn.output_proj.weight @ dcn.value_proj.weight, product)


def test_two_attentions_side_by_side_are_one_site_that_keeps_the_original_for_prefix_tokens():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = SelfAttention(24, 3).qkv, SelfAttention(24, 3).qkv

        def forward(self, x, attn_mask=None, is_causal=False):
            parts = (
                f(x).unflatten(2, (3, 3, -1)).permute(2, 0, 3, 1, 4) for f in (self.one, self.two)
            )
            first, second = (F.scaled_dot_product_attention(*part) for part in parts)
            return (first - 0.5 * second).transpose(1, 2).flatten(2)

    model = tiny_vit()
    model.blocks[0].attn = Difference()
    x, old = tokens(model), copy.deepcopy(model.blocks[0].attn)
    result = convert(model)
    assert close(model.blocks[0].attn(x)[:, :1], old(x)[:, :1])
    assert any("fresh" in text for text in result.report.warnings)
