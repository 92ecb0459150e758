"""Init ``fit`` of attention: points go where positions look, the rest is as by transfer."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from support.models import OnImage, SelfAttention, recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.graph.calls import Call
from dcnify.inherit.calibrate import calibrate_in_turns
from dcnify.nn import PrefixAttention
from dcnify.roles.attention.calibrate import calibrate

GRID = (10, 11)
MAP = torch.randn(2, 16, *GRID, generator=torch.Generator().manual_seed(2))


def close(seen, expected, limit=1e-5):
    return ((seen - expected).norm() / expected.norm()).item() < limit


def inside(layer, mixer, x):
    """Relative error of a layer where all that the heads look at lies inside the image."""
    within = (slice(None), slice(3, -3), slice(3, -3))
    seen, expected = (f(x).double().unflatten(1, GRID)[within] for f in (layer, mixer))
    return ((seen - expected).norm() / expected.norm()).item()


def bias_of(patterns, grid=GRID, prefix=0):
    """(heads, N, N) scores under which head h attends by patterns[h], {(dy, dx): share}."""
    height, width = grid
    count = height * width
    scores = torch.full((len(patterns), prefix + count, prefix + count), -30.0)
    for head, pattern in enumerate(patterns):
        for (dy, dx), share in pattern.items():
            for y in range(max(0, -dy), height - max(0, dy)):
                for x in range(max(0, -dx), width - max(0, dx)):
                    query, key = y * width + x, (y + dy) * width + x + dx
                    scores[head, prefix + query, prefix + key] = torch.tensor(share).log()
    return scores


class Biased(SelfAttention):
    """Attention with a position bias, fused or written out; queries and keys are zero."""

    def __init__(self, bias, fused=True, channels=16):
        super().__init__(channels, len(bias))
        self.bias, self.fused = nn.Parameter(bias), fused
        nn.init.zeros_(self.qkv.weight[: 2 * channels])
        nn.init.zeros_(self.qkv.bias[: 2 * channels])

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            y = (q @ k.mT + self.bias).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


def converted(mixer, init="fit", image=MAP, **options):
    model = OnImage(copy.deepcopy(mixer)).eval()
    kind = type("Tokens", (OnImage,), {"mixer_layout": "BNC"})
    model.__class__ = kind
    result = dcnify.convert(model, recipe("attention", init=init, **options), image, image)
    return result.model.mixer, result.report


PATTERNS = [
    {(0, 0): 0.4, (0, 2): 0.3, (-3, 1): 0.2, (2, -2): 0.1},
    {(1, 0): 0.5, (-1, 0): 0.25, (0, -3): 0.25},
]


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_points_go_where_a_head_looks(fused):
    mixer = Biased(bias_of(PATTERNS), fused).eval()
    x = MAP.flatten(2).transpose(1, 2)
    layer, report = converted(mixer)
    assert inside(layer, mixer, x) < 0.15
    assert report.sites[0].sqnr_db > converted(mixer, "transfer")[1].sites[0].sqnr_db + 6
    assert report.warnings == ()


@torch.no_grad()
def test_a_head_that_looks_at_its_own_token_is_exact_everywhere():
    mixer = Biased(bias_of([{(0, 0): 1.0}, {(0, 0): 1.0}])).eval()
    x = MAP.flatten(2).transpose(1, 2)
    assert close(converted(mixer)[0](x), mixer(x))


def test_weights_add_up_to_one_as_attention_does():
    layer, _ = converted(Biased(bias_of(PATTERNS)))
    packed = layer.dcn.offset_mask.bias[:54].unflatten(0, (2, 27))
    assert torch.allclose(packed[:, 18:].sum(1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
@torch.no_grad()
def test_a_biased_layer_is_closer_than_by_transfer(softmax):
    generator = torch.Generator().manual_seed(5)
    steps = torch.cartesian_prod(torch.arange(10.0), torch.arange(11.0))
    distance = (steps[:, None] - steps - torch.tensor([1.0, -2.0])).square().sum(-1)
    bias = torch.stack((-distance / 3, -distance.mT / 8))
    mixer = Biased(bias)
    nn.init.normal_(mixer.qkv.weight[:32], std=0.1, generator=generator)
    found = [
        converted(mixer, init, softmax=softmax)[1].sites[0].sqnr_db for init in ("transfer", "fit")
    ]
    assert found[1] > found[0] + 3


def test_the_projections_are_those_of_the_old_layer():
    mixer = Biased(bias_of(PATTERNS))
    layer, _ = converted(mixer)
    assert close(layer.dcn.value_proj.weight, mixer.qkv.weight[32:])
    assert close(layer.dcn.output_proj.weight, mixer.proj.weight)


@pytest.mark.parametrize(
    "mixer",
    [SelfAttention(), Biased(torch.zeros(2, 110, 110))],
    ids=["no bias", "a bias that says nothing"],
)
def test_where_positions_say_nothing_the_start_is_that_of_transfer_and_told(mixer):
    fit, report = converted(mixer)
    transfer, _ = converted(mixer, init="transfer")
    for one, other in zip(fit.parameters(), transfer.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any("positions alone do not say where it looks" in text for text in report.warnings)


@pytest.mark.parametrize("width", [2, 4, 8, 16])
def test_groups_wider_and_narrower_than_a_head_convert(width):
    layer, _ = converted(Biased(bias_of(PATTERNS)), group_channels=width)
    points = layer.dcn.offset_mask.bias[: 27 * 16 // width].unflatten(0, (16 // width, 27))
    same = [torch.equal(points[0], group) for group in points]
    assert same == [16 // width == 1 or index < 8 // width for index in range(16 // width)]


def test_a_bias_of_a_model_with_prefix_tokens_is_read_without_them():
    torch.manual_seed(0)
    options = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": 112}
    model = timm.create_model("beit_base_patch16_224", **options).eval()
    nn.init.normal_(model.blocks[0].attn.relative_position_bias_table, std=2)
    image = torch.randn(2, 3, 112, 112)
    expected = []
    for init in ("transfer", "fit"):
        result = dcnify.convert(copy.deepcopy(model), recipe("attention", init=init), image, image)
        expected.append(result.report.sites[0].sqnr_db)
        assert not [text for text in result.report.warnings if "worse than" not in text]
    assert expected[1] > expected[0]


def test_position_embeddings_say_where_to_look_too():
    """Embeddings of rows and columns, by which each token finds those around it."""
    model = tiny_vit(depth=1, num_heads=1, img_size=64, embed_dim=32)
    angles = torch.arange(8.0)[:, None] * torch.tensor([0.25, 0.5, 0.75, 1.0])
    waves = torch.cat((angles.sin(), angles.cos()), 1)
    places = torch.cat((waves[:, None].expand(8, 8, 8), waves.expand(8, 8, 8)), 2).flatten(0, 1)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.pos_embed.zero_()
        model.pos_embed[0, 1:, :16] = places * 2
        model.blocks[0].attn.qkv.weight[:64] = torch.eye(32).repeat(2, 1) * 2
        model.blocks[0].attn.qkv.weight[64:, :16] = 0
    found = []
    for init in ("transfer", "fit"):
        result = dcnify.convert(copy.deepcopy(model), recipe("attention", init=init), image, image)
        found.append(result.report.sites[0].sqnr_db)
    assert found[1] > found[0] + 1


def test_class_tokens_still_attend_exactly():
    model = tiny_vit()
    image = torch.randn(2, 3, 32, 32)
    x = torch.randn(2, 17, 24)
    old = copy.deepcopy(model.blocks[0].attn)
    dcnify.convert(model, recipe("attention", init="fit"), image, image)
    new = model.blocks[0].attn
    assert isinstance(new.prefix_attn, PrefixAttention)
    assert close(new(x)[:, :1], old(x)[:, :1])


@pytest.mark.parametrize("grid", [(1, 12), (2, 2), (12, 1)])
def test_grids_smaller_than_the_points_convert(grid):
    image = torch.randn(1, 16, *grid)
    bias = torch.randn(2, grid[0] * grid[1], grid[0] * grid[1])
    layer, _ = converted(Biased(bias), image=image, kernel_size=5)
    assert torch.isfinite(layer(image.flatten(2).transpose(1, 2))).all()


@pytest.mark.parametrize("options", [{"pointwise": False}, {"offset_scale": 2.0}, {"bf16": True}])
@torch.no_grad()
def test_other_forms_of_the_layer_take_the_points_too(options):
    mixer, image = Biased(bias_of(PATTERNS)), MAP
    if options.pop("bf16", False):
        mixer, image = mixer.bfloat16(), MAP.bfloat16()
    layer, _ = converted(mixer, image=image, **options)
    if "pointwise" in options:  # what is left of the layer is its points
        mixer.qkv.bias.zero_(), mixer.proj.bias.zero_()
        mixer.qkv.weight[32:] = torch.eye(16)
        mixer.proj.weight.copy_(torch.eye(16))
    assert inside(layer, mixer, image.flatten(2).transpose(1, 2)) < 0.2


def test_its_projection_is_not_grown_for_the_last_hundredths_of_the_error():
    torch.manual_seed(0)
    model = tiny_vit()
    path = next(name for name, part in model.named_modules() if name.endswith("attn"))
    old = model.get_submodule(path)
    alike = torch.randn(4, old.qkv.in_features)  # features say little beyond a few directions
    noise = [0.03 * torch.randn(4, 17, old.qkv.in_features) for _ in range(6)]
    calls = [torch.randn(4, 17, 4) @ alike + one for one in noise]
    how = recipe("attention", "transfer")
    images = torch.randn(1, 3, *model.patch_embed.img_size)
    new = dcnify.convert(copy.deepcopy(model), how, images, images).model.get_submodule(path)
    made = {}
    for fit in (calibrate, calibrate_in_turns):
        module = copy.deepcopy(new)
        fit(module, old, [Call((one,), {}) for one in calls], 0)
        made[fit] = float((module.dcn.output_proj.weight - new.dcn.output_proj.weight).norm())
    assert 0 <= made[calibrate] < 0.9 * made[calibrate_in_turns]
