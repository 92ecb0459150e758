"""Artifacts from strangers: nothing runs, nothing is allocated, and the error is one line."""

import json
import resource
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.artifact_standin import converted
from torch import nn

from dcnify.artifact import Base, load, open_source, read_artifact, save
from dcnify.errors import InputError


@pytest.fixture
def out(result, tmp_path):
    return save(result, tmp_path / "out")


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        load(path, **options)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("file", ["model.safetensors", "plan.json", "recipe.yaml", "report.json"])
def test_a_missing_file_is_named(out, file):
    (out / file).unlink()
    refused(out, rf"incomplete: {file} missing")


def test_another_folder_is_told_what_an_artifact_holds(tmp_path):
    refused(tmp_path, r"is no artifact: a folder with config.json, model.safetensors")


def test_a_missing_path_is_told_its_neighbour(out):
    refused(out.with_name("outt"), r"does not exist, did you mean .*out")


@pytest.mark.parametrize("file", ["config.json", "plan.json", "report.json"])
@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00\xff", "[1]", "null", '"text"'])
def test_a_damaged_json_file_is_one_line(out, file, text):
    (out / file).write_text(text)
    if file != "report.json" or text in ("", "{") or text.startswith("[["):
        refused(out, r"out")


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_truncated_weights_are_one_line(out, keep):
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[:keep])
    refused(out, r"model.safetensors is (empty|truncated or not safetensors)")


def test_another_format_number_says_who_wrote_it(out):
    edit(out / "config.json", lambda c: c["dcnify"].update(format=99, version="7.0"))
    refused(out, r"format 99, this dcnify .* reads 1: it was written by dcnify 7\.0")


def test_a_timm_folder_is_no_artifact(out):
    edit(out / "config.json", lambda c: c.pop("dcnify"))
    refused(out, r"no 'dcnify' block")


@pytest.mark.parametrize(
    "args",
    [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "/etc/passwd"}},
        {"pretrained_cfg_overlay": {"url": "http://example.com/x.pth"}},
        {"cache_dir": "/tmp"},
        {"num_classes": 10**12},
        {"depths": [1] * 5000},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
        {"bogus": 1},
        {"depths": "many"},
    ],
)
def test_a_base_that_is_no_architecture_is_refused(out, args):
    edit(out / "config.json", lambda c: c["dcnify"]["base"]["args"].update(args))
    refused(out, r"out|timm cannot build")


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "local-dir:/tmp/x", "nothing", "../x", ""])
def test_a_base_that_names_a_place_or_nothing_is_refused(out, name):
    edit(out / "config.json", lambda c: c["dcnify"]["base"].update(name=name))
    refused(out, r"not a timm architecture|timm has no model")


@pytest.mark.parametrize("args", [{"dims": [100_000] * 4}, {"depths": [100_000, 1, 1, 1]}])
def test_an_absurd_architecture_neither_fills_memory_nor_hangs(out, args):
    edit(out / "config.json", lambda c: c["dcnify"]["base"]["args"].update(args))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    refused(out, r"does not fit|over \d+ parameters")
    assert time.monotonic() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_an_absurd_swap_does_not_fill_memory(out):
    edit(out / "plan.json", lambda p: p["swaps"][0]["module"]["args"].update(channels=10**9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(out, r"does not fit its model")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_a_swap_at_no_module_is_refused(out):
    edit(out / "plan.json", lambda p: p["swaps"][0]["site"].update(path="stages.9.x"))
    refused(out, r"the plan cannot be replayed on timm:convnext_atto")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("head.fc.weight"),
        lambda t: t.update(extra=torch.ones(1)),
        lambda t: t.update({"head.fc.weight": torch.ones(3, 3)}),
    ],
)
def test_weights_must_fit_strictly(out, change):
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    refused(out, r"does not fit its model: 1 (missing|unexpected|of another shape)")


@pytest.mark.parametrize(
    "block",
    [
        {"aliases": {"a": "b"}},
        {"aliases": [1]},
        {"aliases": {"head.fc.weight": "head.fc.weight"}},
        {"buffers": ["nope"]},
        {"buffers": ["head.fc.weight"]},
        {"buffers": [1]},
        {"files": 3},
        {"base": None},
        {"base": {"kind": "pickle", "name": "x", "args": {}}},
    ],
)
def test_a_damaged_block_is_one_line(out, block):
    edit(out / "config.json", lambda c: c["dcnify"].update(block))
    refused(out, r"out|a base is of kind")


@pytest.mark.parametrize("size", ["big", [3, -1, 2], [3, 2], [3, 2.5, 2], [[1], 2, 3]])
def test_a_damaged_input_size_is_one_line(out, size):
    edit(out / "config.json", lambda c: c["pretrained_cfg"].update(input_size=size))
    refused(out, r"input_size must be")


def test_code_named_by_an_artifact_is_not_imported_without_trust(stand_in, tmp_path, monkeypatch):
    (tmp_path / "their_code.py").write_text(
        "import pathlib\n"
        "from torch import nn\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "def build(width):\n    return nn.Sequential(nn.Linear(width, 2), nn.BatchNorm1d(2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)).eval()
    base = Base("python", "their_code:build", {"width": 4})
    out = save(converted(model), tmp_path / "out", base=base)
    (tmp_path / "ran").unlink()
    __import__("sys").modules.pop("their_code")
    refused(out, r"is built by code it names, python:their_code:build: pass --trust-code")
    with pytest.raises(InputError, match=r"--trust-code"):
        open_source(out)
    assert read_artifact(out).base == base
    assert not (tmp_path / "ran").exists()
    loaded = load(out, trust_code=True)
    assert (tmp_path / "ran").exists()
    assert torch.equal(loaded[0].weight, model[0].weight)
    assert open_source(out, trust_code=True).base == base


def test_a_pt_artifact_with_code_is_refused(result, tmp_path):
    out = save(result, tmp_path / "out.pt")
    held = torch.load(out, weights_only=True)
    torch.save({**held, "state_dict": nn.Linear(1, 1)}, out)
    refused(out, r"holds Python objects")
    torch.save({**held, "state_dict": {"x": 1}}, out)
    refused(out, r"holds no state dict")
    torch.save({**held, "plan": 3}, out)
    refused(out, r"its plan, recipe or report is no text")
    torch.save(held["state_dict"], out)
    refused(out, r"is a weight file, not an artifact")
