"""Converting attention: prefix tokens, projections, and the ways a caller may call."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from support.models import OnImage, SelfAttention, recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.nn import PrefixAttention, TokenDCNv4

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MAP = torch.randn(2, 16, 6, 4, generator=torch.Generator().manual_seed(2))


def convert(model, image=IMAGE, **options):
    return dcnify.convert(model, recipe("attention", **options), image, calibration=image)


def tokens(model, path="blocks.0.attn"):
    """What reaches the module at ``path``."""
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with torch.no_grad():
        model(IMAGE)
    handle.remove()
    return seen[0]


def close(seen, expected, limit=1e-5):
    return ((seen - expected).norm() / expected.norm()).item() < limit


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


@pytest.mark.parametrize("layout", ["BNC", "BHWC", "BCHW"])
@pytest.mark.parametrize("extra", [0, 1])
def test_callers_get_the_layout_and_the_tuple_they_expect(layout, extra):
    torch.manual_seed(0)
    model = OnImage(SelfAttention(layout=layout, extra=extra)).eval()
    result = dcnify.convert(_with_layout(model), recipe("attention"), MAP, calibration=MAP)
    layer = result.model.mixer
    assert isinstance(layer, TokenDCNv4)
    assert result.plan.swaps[0].site.layout == layout
    assert model(MAP).shape == (2, 16 * 24)


def _with_layout(model):
    """The replaced module has no ``layout`` attribute of the test's; remember it on the class."""
    kind = type("Remembers", (OnImage,), {"mixer_layout": model.mixer.layout})
    model.__class__ = kind
    return model


def test_all_layouts_compute_the_same():
    outputs = []
    for layout in ("BNC", "BHWC", "BCHW"):
        torch.manual_seed(0)
        model = _with_layout(OnImage(SelfAttention(layout=layout)).eval())
        dcnify.convert(model, recipe("attention"), MAP, calibration=MAP)
        y = model(MAP)
        shape = (2, 16, 24) if layout == "BCHW" else (2, 24, 16)
        y = y.reshape(shape)
        outputs.append(y if layout == "BCHW" else y.transpose(1, 2))
    assert close(outputs[1], outputs[0])
    assert close(outputs[2], outputs[0])


def test_rectangular_grids_are_read_from_the_capture():
    model = tiny_vit(img_size=(32, 64))
    image = torch.randn(1, 3, 32, 64)
    result = convert(model, image)
    assert {swap.site.grid for swap in result.plan.swaps} == {(4, 8)}
    assert model(image).shape == (1, 5)


def test_torch_multihead_attention_is_replaced_under_its_own_calling_convention():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            y, _ = self.attn(x, x, x, need_weights=False)
            return (x + y).mean(1)

    torch.manual_seed(0)
    model = Block().eval()
    dcnify.convert(model, recipe("attention"), MAP, calibration=MAP)
    assert model(MAP).shape == (2, 16)


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


def test_a_parent_that_reads_a_setting_of_the_old_layer_still_finds_it_and_else_is_told():
    class Parent(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.attn, self.name = SelfAttention(), name

        def forward(self, x):
            getattr(self.attn, self.name)
            return self.attn(x.flatten(2).transpose(1, 2)).mean(1)

    dcnify.convert(Parent("heads"), recipe("attention"), MAP, calibration=MAP)
    model = Parent("qkv")
    with pytest.raises(InputError, match="qkv"):
        dcnify.convert(model, recipe("attention"), MAP, calibration=MAP)
    assert isinstance(model.attn, SelfAttention)


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
    model = _with_layout(OnImage(wide).eval())
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


def test_a_swapped_vit_trains_copies_compiles_and_keeps_its_class():
    model = tiny_vit(drop_path_rate=0.1, qkv_bias=True)
    kind = type(model)
    convert(model)
    assert type(model) is kind
    twin = copy.deepcopy(model).train()
    twin.set_grad_checkpointing(True)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.1)
    F.cross_entropy(twin(IMAGE), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for n, p in twin.named_parameters() if ".dcn." in n)
    optimiser.step()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert close(compiled(IMAGE), model(IMAGE))


def test_a_site_inside_a_swapped_site_is_skipped_with_the_reason():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layout = "BCHW"
            self.local = nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.attn = nn.Linear(16, 48)

        def forward(self, x):
            shape = x.shape
            x = self.local(x).flatten(2).transpose(1, 2)
            q, k, v = self.attn(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
            return y.permute(0, 1, 3, 2).reshape(shape)

    model = _with_layout(OnImage(Mixed()).eval())
    text = (
        "version: 1\nname: both\nswaps:\n"
        "  - {name: a, select: {role: attention}, replace: {with: dcnv4, group_channels: 8}}\n"
        "  - {name: d, select: {role: depthwise_conv}, replace: {with: dcnv4, group_channels: 8}}\n"
    )
    plan = dcnify.plan(model, dcnify.Recipe.from_yaml(text), MAP)
    assert [swap.site.path for swap in plan.swaps] == ["mixer"]
    assert [(s.path, s.reason) for s in plan.skipped] == [
        ("mixer.local", "inside mixer, which is swapped")
    ]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(self.patches(x).flatten(2).transpose(1, 2))


def test_torchs_encoder_calls_the_new_layer_where_it_would_take_its_fast_path():
    images = torch.randn(2, 3, 32, 32)
    model = Encoder().eval()
    layers = dcnify.convert(model, recipe("attention"), images).model.encoder.layers
    with torch.no_grad():
        tokens = model.patches(images).flatten(2).transpose(1, 2)
        for layer in layers:
            tokens = layer.norm1(tokens + layer.self_attn(tokens, tokens, tokens)[0])
            tokens = layer.norm2(tokens + layer.linear2(layer.linear1(tokens).relu()))
        assert torch.allclose(model(images), tokens, atol=1e-5)
