"""What is and is not an attention's site, on modules written for the purpose."""

import pytest
import torch
import torch.nn.functional as F
from support.near_misses import IMAGE, near
from torch import nn

from dcnify.graph import find_sites


class Attention(nn.Module):
    """Plain self-attention over (B, N, 8), with ways to spoil it."""

    def __init__(self, keys_first=0, residual=False, as_tuple=False, causal=False):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.keys_first, self.residual, self.as_tuple = keys_first, residual, as_tuple

    def forward(self, x, attn_mask=None):
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        y = self.proj(y.transpose(1, 2).reshape(batch, count, 8))
        y = x + y if self.residual else y
        return (y, None) if self.as_tuple else y


class Tokens(nn.Module):
    """Tokens of an image through one mixer and back."""

    def __init__(self, mixer, prefix=0):
        super().__init__()
        self.mixer = mixer
        self.cls = nn.Parameter(torch.zeros(1, prefix, 8)) if prefix else None

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens], 1)
        y = self.mixer(tokens)
        y = y[0] if isinstance(y, tuple) else y
        return (tokens + y).mean(1)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_plain_attention_is_a_site(prefix):
    (site,) = find_sites(Tokens(Attention(), prefix), IMAGE)
    assert (site.path, site.role, site.layout) == ("mixer", "attention", "BNC")
    assert (site.grid, site.prefix_tokens, site.heads) == ((12, 16), prefix, 2)


def test_an_attention_that_returns_a_tuple_says_so():
    (site,) = find_sites(Tokens(Attention(as_tuple=True)), IMAGE)
    assert site.returns == "tuple[2]"


def test_torch_multihead_attention_is_a_site_even_when_frozen():
    class SelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attn(x, x, x, need_weights=False)[0]

    model = Tokens(SelfAttention()).requires_grad_(False)
    (site,) = find_sites(model, IMAGE)
    assert (site.path, site.returns) == ("mixer.attn", "tuple[2]")


def test_an_attention_beside_its_residual_is_a_site_inside_its_module():
    (site,) = find_sites(Tokens(Attention(residual=True)), IMAGE)
    assert (site.path, site.layout, site.heads) == ("mixer.attention_region", "BNC", 2)


def test_tokens_in_another_order_are_a_near_miss():
    class Shuffled(Tokens):
        def forward(self, x):
            return self.mixer(x.permute(0, 3, 2, 1).flatten(1, 2))

    assert "raster order" in near(Shuffled(Attention()))["mixer"]


class Blocks(nn.Module):
    """Two residual blocks of one mixer on image tokens."""

    def __init__(self, make):
        super().__init__()
        self.mixers = nn.ModuleList([make(), make()])

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        for mixer in self.mixers:
            x = x + mixer(x)
        return x.mean(1)


def attentions(model):
    return [site.path for site in find_sites(model, IMAGE) if site.role == "attention"]


def test_linear_attention_is_no_softmax_attention():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = (F.linear(x, w) for w in self.qkv.weight.split(8))
            return self.proj(q.softmax(-1) @ (k.softmax(-2).mT @ v))

    assert attentions(Blocks(Linear)) == []


@pytest.mark.parametrize("join", ["cat", "stack"])
def test_windows_cut_by_slicing_are_windows(join):
    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Attention()

        def forward(self, x):
            x = x.permute(0, 2, 3, 1)
            windows = [x[:, i : i + 6, j : j + 8].flatten(1, 2) for i in (0, 6) for j in (0, 8)]
            if join == "cat":
                return self.attn(torch.cat(windows, 0)).mean()
            return self.attn(torch.stack(windows, 1).flatten(0, 1)).mean()

    assert attentions(Sliced()) == []


def test_stripes_inside_a_module_are_not_the_whole_image():
    class Stripes(Attention):
        def forward(self, x):
            return torch.cat([super(Stripes, self).forward(part) for part in x.chunk(2, 1)], 1)

    assert attentions(Tokens(Stripes())) == []


@pytest.mark.parametrize(
    "shuffle",
    [lambda x: x.flip(1), lambda x: x.roll(5, 1), lambda x: x[:, torch.arange(191, -1, -1)]],
)
def test_reordered_tokens_are_no_raster(shuffle):
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Attention()

        def forward(self, x):
            return self.attn(shuffle(x.flatten(2).transpose(1, 2))).mean(1)

    assert attentions(Shuffled()) == []


def test_causal_and_masked_attention_is_a_near_miss():
    class Causal(Attention):
        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.proj(y.transpose(1, 2).flatten(2))

    class Masked(Tokens):
        def forward(self, x):
            causal = torch.full((192, 192), -1e9).triu(1)
            return self.mixer(x.flatten(2).transpose(1, 2), causal).mean(1)

    assert "causal" in near(Tokens(Causal()))["mixer"]
    assert "mask" in near(Masked(Attention()))["mixer"]


def test_attention_in_einsum_is_a_site():
    class Einsum(Attention):
        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            y = torch.einsum("bhqk,bhkd->bhqd", weights, v)
            return self.proj(y.transpose(1, 2).flatten(2))

    (site,) = find_sites(Tokens(Einsum()), IMAGE)
    assert site.heads == 2
    assert site.flops == 2 * 192 * 8 * 32 + 2 * 2 * 192 * 192 * 8


def test_a_module_that_is_also_used_on_windows_is_no_site():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = Attention()

        def forward(self, x):
            x = x.permute(0, 2, 3, 1)
            windows = x.reshape(1, 2, 6, 2, 8, 8).permute(0, 1, 3, 2, 4, 5).reshape(4, 48, 8)
            return self.attn(x.flatten(1, 2)).mean() + self.attn(windows).mean()

    assert attentions(Both()) == []
