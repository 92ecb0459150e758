"""Folders of Hugging Face transformers as sources, and the artifacts of their conversions."""

from __future__ import annotations

import json

import pytest
import torch

import dcnify
from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.sources import transformers_models
from dcnify.sources.base import Base

transformers = pytest.importorskip("transformers")

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
NAMES = {index: f"class {index}" for index in range(1200)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A ViT of 1200 named classes in several files, with its image processor."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=64,
        patch_size=8,
        id2label=NAMES,
    )
    model = transformers.ViTForImageClassification(config).eval()
    folder = tmp_path_factory.mktemp("hf") / "vit"
    model.save_pretrained(folder, max_shard_size="200KB")
    size = {"height": 64, "width": 64}
    transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder, model


@torch.no_grad()
def test_a_folder_is_opened_by_its_own_class_with_its_own_statistics(saved):
    folder, model = saved
    opened = open_source(folder)
    assert type(opened.model) is transformers.ViTForImageClassification
    assert torch.equal(opened.model(X).logits, model(X).logits)
    assert (opened.input_size, opened.mean) == ((3, 64, 64), (0.4, 0.4, 0.4))
    assert (opened.interpolation, opened.assumed) == ("bilinear", "")


@torch.no_grad()
def test_a_conversion_comes_back_as_the_same_class_with_the_same_config(saved, tmp_path):
    folder, model = saved
    opened = open_source(folder)
    result = dcnify.convert(opened.model, dcnify.Recipe.load("vit", ["require=null"]), X[:1])
    assert len(result.plan.swaps) == 2
    dcnify.save(result, tmp_path / "out", base=opened.base, source=opened)
    loaded = dcnify.load(tmp_path / "out")
    assert type(loaded) is type(model)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert loaded.config.id2label == NAMES
    assert torch.equal(loaded(X).logits, result.model(X).logits)


def without_a_tensor(folder):
    torch.save({}, folder / "unrelated.pt")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["classifier.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.safetensors"):
        kept = {k: v for k, v in load_file(file).items() if k != "classifier.weight"}
        save_file(kept, file, metadata={"format": "pt"})


def with_config(**entries):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **entries}))

    return change


def without_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_tensor, "no classifier.weight of its shape"),
        (without_weights, "transformers cannot open it"),
        (with_config(hidden_size=32), "of its shape"),
        (with_config(model_type="vitt"), "did you mean 'vit'"),
        (with_config(architectures=["VitForImage"]), "no model class 'VitForImage'"),
        (with_config(quantization_config={"quant_method": "gptq"}), "convert the float original"),
    ],
)
def test_a_folder_that_does_not_open_is_one_line(saved, tmp_path, change, said, capfd):
    for file in saved[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_options_of_other_sources_are_refused(saved):
    with pytest.raises(InputError, match="--arch cannot change"):
        open_source(saved[0], arch="vit_tiny_patch16_224")


def test_without_transformers_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setattr(transformers_models, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'dcnify\[transformers\]'"):
        open_source(saved[0])


def test_an_artifact_from_a_stranger_names_a_class_of_transformers_and_nothing_else():
    entries = {"model_type": "vit", "auto_map": {"AutoModel": "evil--code.Model"}}
    model = Base.from_dict({"kind": "transformers", "name": "ViTModel", "args": entries}).build()
    assert type(model) is transformers.ViTModel
    for name in ("pipeline", "PreTrainedModel", "utils.hub.cached_file", "os"):
        base = Base.from_dict({"kind": "transformers", "name": name, "args": {"model_type": "vit"}})
        with pytest.raises(InputError, match="no model class"):
            base.build()
    entries = {"model_type": "vit", "depths": [1] * 1001}
    with pytest.raises(InputError, match="a list of 1001 entries"):
        Base.from_dict({"kind": "transformers", "name": "ViTModel", "args": entries})


def test_building_an_architecture_fetches_no_weights_of_a_backbone():
    entries = {"model_type": "timm_backbone", "backbone": "resnet18"}
    assert Base("transformers", "TimmBackbone", entries).build().config.backbone == "resnet18"
