"""What an artifact holds, and what its files say."""

import hashlib
import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from support.artifact_standin import SITES, converted, tiny
from torch import nn

from dcnify.artifact import Base, open_source, read_artifact, save
from dcnify.errors import InputError


def test_the_folder_holds_exactly_six_files(result, tmp_path):
    out = save(result, tmp_path / "out")
    names = {"config.json", "model.safetensors", "plan.json", "recipe.yaml", "report.json"}
    names.add("golden.safetensors")
    assert {entry.name for entry in out.iterdir()} == names
    assert {entry.name for entry in tmp_path.iterdir()} == {"out"}


def test_the_config_reads_like_one_of_timm(result, tmp_path):
    config = json.loads((save(result, tmp_path / "out") / "config.json").read_text())
    assert config["architecture"] == "convnext_atto"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 10
    assert config["num_features"] == 32
    assert config["pretrained_cfg"]["input_size"] == [3, 224, 224]
    assert not {"url", "hf_hub_id", "source"} & config["pretrained_cfg"].keys()
    again = timm.create_model(config["architecture"], **config["model_args"])
    assert again.num_classes == 10


def test_the_dcnify_block_says_how_to_build_it_again(result, tmp_path):
    block = json.loads((save(result, tmp_path / "out") / "config.json").read_text())["dcnify"]
    args = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 10}
    assert block["format"] == 1
    assert block["swaps"] == 2
    assert block["base"] == {"kind": "timm", "name": "convnext_atto", "args": args}


def test_the_hashes_are_those_of_the_files(result, tmp_path):
    out = save(result, tmp_path / "out")
    files = json.loads((out / "config.json").read_text())["dcnify"]["files"]
    assert len(files) == 5
    for name, expected in files.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_damage_is_found_by_the_hashes(result, tmp_path, name):
    out = save(result, tmp_path / name)
    assert read_artifact(out).damaged() == ()
    if out.is_dir():
        (out / "recipe.yaml").write_text("version: 2\n")
        assert read_artifact(out).damaged() == ("recipe.yaml",)
    else:
        held = torch.load(out, weights_only=True)
        held["state_dict"]["head.fc.bias"][0] += 1
        torch.save(held, out)
        assert read_artifact(out).damaged() == ("state_dict",)


def test_the_report_names_source_and_recipe(result, tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "model.pt")
    args = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
    source = open_source(tmp_path / "model.pt", arch="convnext_atto", model_args=args)
    made = converted(source.model, *SITES)
    report = read_artifact(save(made, tmp_path / "out", source=source)).report
    assert report["source"]["spec"] == str(tmp_path / "model.pt")
    assert report["source"]["sha256"] == source.sha256
    assert "num_classes=10" in " ".join(report["source"]["notes"])
    assert report["recipe_sha256"] == result.recipe.sha256
    assert report["output"]["top1_agreement"] == 1.0


def test_the_weights_are_plain_safetensors(result, tmp_path):
    stored = load_file(save(result, tmp_path / "out") / "model.safetensors")
    assert stored.keys() == result.model.state_dict().keys()


def test_a_pt_output_is_plain_data(result, tmp_path):
    held = torch.load(save(result, tmp_path / "out.pt"), weights_only=True)
    assert type(held) is dict
    texts = {"format", "plan", "recipe", "report"}
    assert set(held) == {*texts, "config", "state_dict", "golden"}
    assert all(isinstance(held[key], str) for key in ("format", "plan", "recipe", "report"))
    assert type(held["state_dict"]) is dict
    assert set(held["golden"]) == {"input", "output"}


def test_preprocessing_follows_the_model(result, tmp_path):
    result.model.pretrained_cfg = {
        **result.model.pretrained_cfg,
        "mean": (0.1, 0.2, 0.3),
        "label_names": ["a", "b"],
    }
    out = save(result, tmp_path / "out")
    source = open_source(out)
    assert source.mean == (0.1, 0.2, 0.3)
    assert source.model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    assert source.model.pretrained_cfg["label_names"] == ["a", "b"]
    assert timm.data.resolve_model_data_config(source.model)["mean"] == (0.1, 0.2, 0.3)


def test_what_was_changed_by_timm_means_is_found_in_the_model(stand_in, tmp_path):
    model = tiny(in_chans=2)
    model.reset_classifier(4)
    record = read_artifact(save(converted(model, *SITES), tmp_path / "out"))
    assert record.base.args["num_classes"] == 4
    assert record.base.args["in_chans"] == 2


def test_a_base_is_found_without_what_newer_timm_versions_note(stand_in, tmp_path):
    model = timm.create_model("test_convnext", num_classes=7, in_chans=1)
    del model._model_args, model._traits
    record = read_artifact(save(converted(model), tmp_path / "out"))
    assert record.base == Base("timm", "test_convnext", {"num_classes": 7, "in_chans": 1})


def test_a_model_changed_by_hand_asks_for_its_base(result, tmp_path):
    result.model.head.fc = nn.Linear(32, 5, bias=False)
    with pytest.raises(InputError, match=r"base=dcnify\.artifact\.Base"):
        save(result, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_wrong_base_is_refused_before_writing(result, tmp_path):
    with pytest.raises(InputError, match=r"rebuild another model: .* missing"):
        save(result, tmp_path / "out", base=Base("timm", "convnext_atto", {}))
    assert not list(tmp_path.iterdir())


def test_a_model_that_timm_did_not_make_asks_for_its_base(stand_in, tmp_path):
    with pytest.raises(InputError, match=r"Sequential is not from timm.create_model: say how"):
        save(converted(nn.Sequential(nn.Linear(2, 2))), tmp_path / "out")


def test_arguments_that_json_cannot_hold_are_refused():
    with pytest.raises(InputError, match=r"arguments must be plain data"):
        Base("timm", "convnext_atto", {"norm_layer": nn.LayerNorm})
