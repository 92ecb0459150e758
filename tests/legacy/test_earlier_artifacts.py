"""Artifacts and a fine-tuning that dcnify 0.1.0 wrote still load, verify and resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dcnify
from dcnify.cli import main

MADE = Path(__file__).parent / "made"
ARTIFACTS = ("depthwise", "depthwise.pt", "attention", "exact", "flash", "handover")
RESUME = (
    "finetune handover -o trained -r stages.yaml --data builtin:cluttered-digits --cpu --quiet "
    "--image-count 96 --workers 0 --validate-every 1000 --resume"
)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of copies, in which the sources lie where the artifacts say."""
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_earlier_artifact_computes_what_it_computed(name, capsys):
    assert main(["verify", name, "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert all(one["passed"] for one in checks)


@pytest.mark.parametrize(
    ("name", "original"),
    [("depthwise", "convnext"), ("attention", "vit"), ("handover", "convnext")],
)
def test_its_fidelity_to_the_original_is_measured_again(name, original, place):
    base = json.loads((place / name / "config.json").read_text())["dcnify"]["base"]
    options = ["--image-count", "2", "--arch", base["name"]]
    for key, value in base["args"].items():
        options += ["--model-arg", f"{key}={value}"]
    assert main(["verify", name, "--against", f"{original}.safetensors", *options]) == 0


@pytest.mark.parametrize("name", ARTIFACTS)
def test_its_plan_recipe_and_report_are_read(name, place):
    if name.endswith(".pt"):
        pytest.skip("one file holds them all; verify reads it")
    plan = dcnify.Plan.from_json((place / name / "plan.json").read_text())
    assert len(plan.swaps) == len(json.loads((place / name / "plan.json").read_text())["swaps"])
    assert all(swap.site.path for swap in plan.swaps)
    assert dcnify.Recipe.load(place / name / "recipe.yaml").swaps


@pytest.mark.parametrize("name", ARTIFACTS)
def test_it_is_written_again_with_the_same_weights(name, place):
    opened = dcnify.load(place / name)
    weights = opened.state_dict()
    file = place / name / "model.safetensors"
    if file.exists():
        stored = load_file(file)
        assert all(torch.equal(weights[key], value) for key, value in stored.items())
    assert len(list(opened.parameters())) > 10


@pytest.mark.slow
def test_an_earlier_fine_tuning_is_resumed_and_ends_where_it_would_have_ended(place):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(RESUME.split()) == 0
    finally:
        torch.set_num_threads(before)
    assert main(["verify", "trained"]) == 0
    expected = load_file(place / "trained-to-the-end.safetensors")
    found = load_file(place / "trained" / "model.safetensors")
    assert found.keys() == expected.keys()
    if _as_then():
        assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    difference = sum((found[k].double() - expected[k]).square().sum() for k in found)
    assert difference < 1e-4 * sum(one.double().square().sum() for one in expected.values())


def _as_then() -> bool:
    """Whether torch and the processor are those that trained to the end."""
    then = json.loads((MADE / "made.json").read_text())
    processor = Path("/proc/cpuinfo")
    same_processor = processor.exists() and then["processor"] in processor.read_text()
    return same_processor and torch.__version__ == then["torch"]
