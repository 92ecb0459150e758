"""Our models as the backbone of torchvision's Mask R-CNN, as examples/mask_rcnn.py makes it."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from support.processes import run_python
from support.tiny_intern_image import TINY, lively, relative_error

import dcnify
from dcnify.nn import DCNv3

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mask_rcnn.py"
SIZE = (192, 320)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("mask_rcnn_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("converted", [False, True], ids=["flash", "converted"])
def test_a_detector_takes_a_step_and_detects_at_a_reduced_size(example, converted):
    model = example.detector(converted, SIZE, **TINY).train()
    image, target = example.photograph(*SIZE)
    losses = model([image], [target])
    sum(losses.values()).backward()
    assert set(losses) > {"loss_mask", "loss_box_reg"}
    for path, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    torch.optim.SGD(model.parameters(), lr=1e-3).step()

    with torch.no_grad():
        found = model.eval()([image])[0]
    assert found["masks"].shape == (len(found["boxes"]), 1, *SIZE)
    assert found["boxes"].isfinite().all()
    assert found["boxes"].amin() >= 0
    assert found["boxes"].amax() <= max(SIZE)


@pytest.mark.slow
def test_a_converted_backbone_puts_out_the_same_maps_at_another_size(example):
    original = lively("intern_image_t", features_only=True)
    recipe = dcnify.Recipe.load("internimage-exact")
    example_input = torch.zeros(1, 3, 224, 224)
    converted = dcnify.convert(copy.deepcopy(original), recipe, example_input).model
    assert not [module for module in converted.modules() if isinstance(module, DCNv3)]
    image = example.photograph(*SIZE)[0][None]
    with torch.no_grad():
        for one, other in zip(converted(image), original(image), strict=True):
            assert relative_error(one, other) < 1e-5


@pytest.mark.slow
def test_the_example_takes_a_step_and_detects(tmp_path):
    """At half of its 800x1333, in a quarter of the time; the width is odd as there."""
    done = run_python(EXAMPLE, "--size", "400", "667", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(3, 400, 667)" in done.stdout
    assert "A step of training" in done.stdout
    assert "detections" in done.stdout
    assert "nan" not in done.stdout


def test_the_example_is_at_800x1333_unless_told(example):
    image, target = example.photograph()
    assert image.shape == (3, 800, 1333)
    assert target["masks"].shape == (1, 800, 1333)
    model = example.detector(False, **TINY)
    assert (model.transform.min_size, model.transform.max_size) == ((800,), 1333)
