"""The grid of tokens at sizes and proportions other than the captured ones."""

import copy
import io
import json
import threading

import pytest
import torch
import torch.nn.functional as F
from support.models import recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.nn import DCNv4, TokenDCNv4
from dcnify.surgery import Plan
from dcnify.surgery.replay import replay

SIZES = [(32, 64), (64, 32), (16, 128), (48, 80)]
"""The captured size first; two of the others have as many tokens."""


class Attention(nn.Module):
    """Self-attention that its caller tells the grid, though it does not need it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x, height=None, width=None, size=None):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ByConvolution(nn.Module):
    """Patches by a convolution, attention, and a pyramid's second stage behind it."""

    how = "not at all"

    def __init__(self):
        super().__init__()
        self.patch, self.down = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 2, 2)
        self.first, self.second = Attention(), Attention()

    def forward(self, x):
        for conv, attention in ((self.patch, self.first), (self.down, self.second)):
            x = conv(x)
            b, c, h, w = x.shape
            tokens = x.flatten(2).transpose(1, 2)
            if self.how == "rows, columns":
                tokens = tokens + attention(tokens, h, w)
            elif self.how == "keywords":
                tokens = tokens + attention(width=w, height=h, x=tokens)
            elif self.how == "pair":
                tokens = tokens + attention(tokens, size=(h, w))
            else:
                tokens = tokens + attention(tokens)
            x = tokens.transpose(1, 2).reshape(b, c, h, w)
        return x.mean((2, 3))


class ByReshape(nn.Module):
    """Patches by a reshape, in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Linear(48, 16), Attention()

    def forward(self, x):
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        return self.attn(self.embed(patches.reshape(b, h * w // 16, 48))).mean(1)


def vit():
    return tiny_vit(dynamic_img_size=True)


def images(size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def converted(model):
    example = images(SIZES[0], 2)
    return dcnify.convert(model.eval(), recipe("attention"), example, calibration=example)


def grids(model, size):
    """The grids on which the model's DCNv4 layers run for an image of ``size``."""
    seen = []
    layers = [one for one in model.modules() if isinstance(one, DCNv4)]
    handles = [
        one.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[1:3])))
        for one in layers
    ]
    with torch.no_grad():
        model(images(size))
    for handle in handles:
        handle.remove()
    return seen


def expected(model, size):
    patch = 8 if hasattr(model, "blocks") else 4
    first = (size[0] // patch, size[1] // patch)
    second = (first[0] // 2, first[1] // 2) if hasattr(model, "second") else first
    return (
        [first, second]
        if len([m for m in model.modules() if isinstance(m, DCNv4)]) == 2
        else [first]
    )


@pytest.fixture(scope="module", params=[vit, ByConvolution, ByReshape], ids=lambda f: f.__name__)
def made(request):
    """A class of model, one of it converted, and what that says to images of all sizes."""
    torch.manual_seed(0)
    model = request.param().eval()
    result = converted(model)
    with torch.no_grad():
        return request.param, result, [model(images(size)) for size in SIZES]


def says_the_same(model, outputs, tolerance=1e-5):
    with torch.no_grad():
        return all(
            torch.allclose(model(images(size)), output, atol=tolerance)
            for size, output in zip(SIZES, outputs, strict=True)
        )


@pytest.mark.parametrize("size", SIZES)
def test_every_layer_runs_on_the_grid_of_the_image_it_is_given(made, size):
    _, result, _ = made
    assert grids(result.model, size) == expected(result.model, size)


@pytest.mark.parametrize("how", ["rows, columns", "keywords", "pair"])
def test_the_grid_that_the_caller_passes_is_used(how):
    model = ByConvolution()
    model.how = how
    converted(model)
    for size in SIZES:
        assert grids(model, size) == expected(model, size)
    x = torch.randn(1, 32, 16)  # on its own, whatever image the model saw last
    given = {"pair": {"size": (2, 16)}}.get(how, {"height": 2, "width": 16})
    swapped = model.first
    rows = swapped.dcn(x.unflatten(1, (2, 16))).flatten(1, 2)
    assert torch.equal(swapped(x, **given), rows)


def test_of_a_square_the_names_of_the_arguments_say_which_are_rows():
    class Attends(Attention):
        def forward(self, x, W, H):
            return super().forward(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.attn = nn.Conv2d(3, 16, 4, 4), Attends()

        def forward(self, x):
            x = self.patch(x)
            return self.attn(x.flatten(2).transpose(1, 2), x.shape[3], x.shape[2])

    model = Net().eval()
    square = images((32, 32))
    dcnify.convert(model, recipe("attention"), square, calibration=square)
    assert model.attn.call.grid == ("H", "W")


def test_a_class_token_stays_in_front_at_any_size():
    model = vit()
    converted(model)
    x = model.forward_features(images((64, 32)))
    assert x.shape == (1, 33, 24)
    assert grids(model, (64, 32)) == [(8, 4), (8, 4)]


def test_other_entries_of_the_model_know_the_size_too():
    model = vit()
    converted(model)
    before = model(images(SIZES[1]))
    model(images(SIZES[2]))
    assert torch.equal(model.forward_head(model.forward_features(images(SIZES[1]))), before)


@pytest.mark.slow
def test_compiled_models_take_other_sizes(made):
    _, result, outputs = made
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(result.model), backend="eager", fullgraph=True)
    assert says_the_same(compiled, outputs)


def test_a_program_exported_with_sizes_left_open_takes_other_sizes(made):
    _, result, outputs = made
    sizes = {2: torch.export.Dim("h", max=64) * 16, 3: torch.export.Dim("w", max=64) * 16}
    program = torch.export.export(result.model, (images(SIZES[0]),), dynamic_shapes=(sizes,))
    assert says_the_same(program.module(), outputs)
    assert says_the_same(result.model, outputs)  # which remembers no symbol of the trace


def test_copied_pickled_and_replayed_models_take_other_sizes(made):
    kind, result, outputs = made
    file = io.BytesIO()
    torch.save(result.model, file)
    file.seek(0)
    fresh = kind().eval()
    replay(fresh, Plan.from_json(result.plan.to_json()))
    fresh.load_state_dict(result.model.state_dict(), assign=True)
    for model in (copy.deepcopy(result.model), torch.load(file, weights_only=False), fresh.eval()):
        assert says_the_same(model, outputs)


def test_layers_of_plans_that_do_not_say_how_they_are_called_follow_the_image():
    model = vit()
    result = converted(model)
    data = json.loads(result.plan.to_json())
    for swap in data["swaps"]:
        del swap["module"]["args"]["call"], swap["module"]["args"]["grid_from"]
    old = vit().eval()
    replay(old, Plan.from_json(json.dumps(data)))
    old.load_state_dict(model.state_dict(), assign=True)
    for size in SIZES:
        assert grids(old, size) == expected(old, size)


def test_threads_with_images_of_different_shapes_do_not_disturb_each_other(made):
    _, result, outputs = made
    wrong = []

    def run(size, output):
        with torch.no_grad():
            for _ in range(10):
                if not torch.allclose(result.model(images(size)), output, atol=1e-5):
                    wrong.append(size)

    pairs = zip(SIZES, outputs, strict=True)
    threads = [threading.Thread(target=run, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_activation_checkpointing_computes_two_sizes_again():
    model = vit()
    converted(model)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.train().zero_grad()
        (model(images((32, 64))).sum() + model(images((48, 80))).sum()).backward()
        gradients.append(model.blocks[0].attn.dcn.value_proj.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-5)


def test_tokens_that_are_no_grid_of_the_image_are_an_error_of_one_line():
    model = vit()
    converted(model)
    model.norm_pre.register_forward_hook(lambda _m, _a, x: x[:, :17])  # 16 of 32: would be 4x4
    with pytest.raises(InputError, match=r"16 image tokens.*patch_embed\.proj is 4x8") as caught:
        model(images((32, 64)))
    assert "\n" not in str(caught.value)


def test_a_layer_that_knows_no_other_grid_refuses_other_counts():
    layer = TokenDCNv4(8, grid=(4, 4), groups=2)
    assert layer(torch.randn(1, 16, 8)).shape == (1, 16, 8)
    with pytest.raises(InputError, match="made for 4x4"):
        layer(torch.randn(1, 64, 8))


def test_a_failed_conversion_leaves_no_hook_behind():
    model = vit()
    impossible = recipe("attention", more="certify: {relative_error: 1.0e-9}\n")
    example = images(SIZES[0], 2)
    with pytest.raises(dcnify.CheckError):
        dcnify.convert(model, impossible, example, calibration=example)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_map_inside_a_layer_that_is_swapped_away_is_not_relied_on():
    class WithMap(nn.Module):
        """An attention whose output projection is a convolution over the map."""

        def __init__(self):
            super().__init__()
            self.attn, self.proj = Attention(), nn.Conv2d(16, 16, 1)

        def forward(self, x, height, width):
            y = self.attn(x).transpose(1, 2).unflatten(2, (height, width))
            return self.proj(y).flatten(2).transpose(1, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 4, 4)
            self.blocks = nn.ModuleList(WithMap() for _ in range(2))

        def forward(self, x):
            x = self.patch(x)
            h, w = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = x + block(x, h, w)
            return x.mean(1)

    model = Net()
    result = converted(model)
    rules = [swap.module.args["grid_from"]["module"] for swap in result.plan.swaps]
    assert rules == ["patch", "patch"]
    assert grids(model, (64, 32)) == [(16, 8), (16, 8)]


def test_what_is_computed_again_in_another_thread_takes_the_latest_size_that_fits():
    model = vit()
    converted(model)
    model.train().set_grad_checkpointing(True)
    with torch.no_grad():
        model(images((64, 32)))  # an older image with as many tokens
    loss = model(images((32, 64))).sum() + model(images((48, 80))).sum()
    seen = []
    model.blocks[0].attn.dcn.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert sorted(tuple(shape[1:3]) for shape in seen) == [(4, 8), (6, 10)]
