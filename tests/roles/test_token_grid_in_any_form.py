"""Copied, compiled, exported, recomputed or in threads, a layer takes its own image's grid."""

import copy
import io
import json
import threading

import pytest
import torch
from support.token_grids import (
    SIZES,
    Attention,
    ByConvolution,
    converted,
    expected,
    grids,
    images,
    vit,
)
from torch import nn

from dcnify.surgery import Plan
from dcnify.surgery.replay import replay


class ByReshape(nn.Module):
    """Patches by a reshape, in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Linear(48, 16), Attention()

    def forward(self, x):
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        return self.attn(self.embed(patches.reshape(b, h * w // 16, 48))).mean(1)


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
