"""Whoever calls an attention may call its replacement: in any layout, tuple or library."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.converted_attention import IMAGE, MAP, close, convert, with_layout
from support.models import OnImage, SelfAttention, recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.nn import TokenDCNv4


@pytest.mark.parametrize("layout", ["BNC", "BHWC", "BCHW"])
@pytest.mark.parametrize("extra", [0, 1])
def test_callers_get_the_layout_and_the_tuple_they_expect(layout, extra):
    torch.manual_seed(0)
    model = OnImage(SelfAttention(layout=layout, extra=extra)).eval()
    result = dcnify.convert(with_layout(model), recipe("attention"), MAP, calibration=MAP)
    layer = result.model.mixer
    assert isinstance(layer, TokenDCNv4)
    assert result.plan.swaps[0].site.layout == layout
    assert model(MAP).shape == (2, 16 * 24)


def test_all_layouts_compute_the_same():
    outputs = []
    for layout in ("BNC", "BHWC", "BCHW"):
        torch.manual_seed(0)
        model = with_layout(OnImage(SelfAttention(layout=layout)).eval())
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

    model = with_layout(OnImage(Mixed()).eval())
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
