"""torchvision's models as sources: by name, and as the architecture of a weight file."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

import dcnify
from dcnify.artifact import open_source
from dcnify.artifact.original_source import recorded_source
from dcnify.artifact.record import read_artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.sources.base import Base

NAME = "shufflenet_v2_x0_5"
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_name_is_opened_with_what_its_weights_expect_of_images():
    opened = open_source("torchvision:inception_v3")
    assert opened.random_weights
    assert opened.input_size == (3, 299, 299)
    assert (opened.mean, opened.interpolation) == ((0.485, 0.456, 0.406), "bilinear")
    assert opened.assumed == ""


@torch.no_grad()
def test_a_conversion_is_saved_loads_bit_for_bit_and_names_its_original(tmp_path):
    opened = open_source(f"torchvision:{NAME}.IMAGENET1K_V1", model_args={"num_classes": 7})
    assert opened.base == Base("torchvision", NAME, {"num_classes": 7})
    result = dcnify.convert(opened.model, dcnify.Recipe.load("mobilenet", ["require=null"]), X[:1])
    assert result.plan.swaps
    dcnify.save(result, tmp_path / "out", base=opened.base, source=opened)
    loaded = dcnify.load(tmp_path / "out")
    assert type(loaded) is models.ShuffleNetV2
    assert torch.equal(loaded(X), result.model(X))
    original = recorded_source(read_artifact(tmp_path / "out"), "", weights=False)
    assert original.model.fc.out_features == 7


@torch.no_grad()
def test_modules_that_refuse_weights_without_their_version_are_given_it(tmp_path):
    opened = open_source("torchvision:mnasnet0_5", model_args={"num_classes": 7})
    result = dcnify.convert(opened.model, dcnify.Recipe.load("mobilenet", ["require=null"]), X[:1])
    dcnify.save(result, tmp_path / "out", base=opened.base, source=opened)
    assert torch.equal(dcnify.load(tmp_path / "out")(X), result.model(X))


@pytest.mark.parametrize("classes", [1000, 10])
def test_a_weight_file_says_how_many_classes(tmp_path, classes):
    trained = models.get_model(NAME, num_classes=classes).eval()
    torch.save({"model": trained.state_dict(), "epoch": 3}, tmp_path / "last.pth")
    opened = open_source(tmp_path / "last.pth", arch=f"torchvision:{NAME}")
    with torch.no_grad():
        assert torch.equal(opened.model(X), trained(X))
    assert opened.assumed == f"torchvision's {NAME}"
    assert any("num_classes" in note for note in opened.notes) is (classes == 10)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("torchvision:shufflenet_v2_x05", {}, f"did you mean '{NAME}'"),
        (f"torchvision:{NAME}.V9", {}, "it has: IMAGENET1K_V1"),
        (f"torchvision:{NAME}", {"model_args": {"depth": 3}}, "unexpected keyword argument"),
        ("torchvision:", {}, "needs a name, as in torchvision:resnet50"),
        ("torchvison:resnet50", {}, "did you mean 'torchvision:'"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_fix(source, options, said):
    with pytest.raises(InputError) as caught:
        open_source(source, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_what_published_weights_set_is_kept_in_the_base(monkeypatch):
    made = models.googlenet(init_weights=False)
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: made.state_dict())
    opened = open_source("torchvision:googlenet", pretrained=True)
    assert opened.model.transform_input
    again = opened.base.build().eval()
    again.load_state_dict(opened.model.state_dict())
    assert torch.equal(again(X), opened.model(X))


def test_what_a_file_does_not_show_is_said(tmp_path):
    made = models.googlenet(init_weights=False)
    torch.save(made.state_dict(), tmp_path / "google.pth")
    arch = "torchvision:googlenet"
    opened = open_source(tmp_path / "google.pth", arch=arch)
    assert any("--model-arg transform_input=true" in note for note in opened.notes)
    told = open_source(tmp_path / "google.pth", arch=arch, model_args={"transform_input": True})
    assert told.model.transform_input
    assert not any("transform_input" in note for note in told.notes)


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DcnifyError, match=f"cannot fetch torchvision:{NAME}") as caught:
        open_source(f"torchvision:{NAME}", pretrained=True)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(models.get_model("squeezenet1_1").state_dict(), tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"other.pth does not fit torchvision:{NAME}"):
        open_source(tmp_path / "other.pth", arch=f"torchvision:{NAME}")


@pytest.mark.parametrize("args", [{"weights": "DEFAULT"}, {"weights_backbone": "DEFAULT"}])
def test_an_artifact_may_not_reach_for_the_network(args):
    with pytest.raises(InputError, match="may not set weights"):
        Base.from_dict({"kind": "torchvision", "name": NAME, "args": args})
