"""``timm:`` and ``python:`` sources."""

import sys

import pytest
import timm
import torch
from support.artifact_standin import assert_same, tiny

from dcnify.artifact import open_source
from dcnify.errors import DcnifyError, InputError

MODULE = """
from torch import nn

CONSTANT = 3
model = nn.Linear(2, 2)

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(width, 2)

def build(width=4):
    return Net(width)

def wrong():
    return {"not": "a module"}

def fails():
    raise OSError("no data here")
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(MODULE)
    (tmp_path / "broken_code.py").write_text("import nothing_like_this\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield
    sys.modules.pop("own_code", None)


def test_a_timm_name_is_a_source():
    torch.manual_seed(0)
    source = open_source("timm:test_convnext", model_args={"num_classes": 3})
    torch.manual_seed(0)
    assert_same(timm.create_model("test_convnext", num_classes=3), source.model)
    assert not source.model.training
    assert (source.base.kind, source.base.name) == ("timm", "test_convnext")
    assert source.base.args == {"num_classes": 3}
    assert source.spec == "timm:test_convnext"
    assert "weights are random" in source.notes[0]


def test_the_hash_of_a_source_is_that_of_its_weights():
    def hashed(seed):
        torch.manual_seed(seed)
        return open_source("timm:test_convnext").sha256

    assert hashed(0) == hashed(0) != hashed(1)


def test_input_size_follows_the_arguments():
    source = open_source("timm:vit_tiny_patch16_224", model_args={"depth": 1, "img_size": [96, 64]})
    assert source.input_size == (3, 96, 64)
    source = open_source("timm:test_convnext", model_args={"in_chans": 1})
    assert source.input_size[0] == len(source.mean) == len(source.std) == 1


def test_a_name_with_a_tag_keeps_it():
    source = open_source("timm:test_convnext.r160_in1k")
    assert source.base.name == "test_convnext.r160_in1k"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("timm:convnxt_tiny", r"'convnxt_tiny'.*did you mean .*convnext_tiny"),
        ("timm:test_convnext.nope", r"no weights 'nope' for test_convnext; it has: r160_in1k"),
        ("timm:", r"needs a name, as in timm:convnext_tiny"),
        ("convnext_tiny", r"convnext_tiny does not exist.*timm:convnext_tiny"),
        ("hf-hub:timm/resnet18", r"write timm:hf-hub:timm/resnet18"),
        ("nothing_at_all", r"nothing_at_all does not exist"),
    ],
)
def test_an_unknown_name_gets_the_nearest(spec, match):
    with pytest.raises(InputError, match=match):
        open_source(spec)


def test_arguments_that_a_model_does_not_take_are_named():
    with pytest.raises(InputError, match=r"timm cannot build test_convnext\(dephts=1\): .*dephts"):
        open_source("timm:test_convnext", model_args={"dephts": 1})


def test_pretrained_weights_that_do_not_exist_are_an_input_error():
    with pytest.raises(InputError, match=r"timm has no pretrained weights for convnext_atto_rms$"):
        open_source("timm:convnext_atto_rms", pretrained=True)


def test_a_failed_download_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("we cannot reach the hub\nand more lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DcnifyError) as error:
        open_source("timm:test_convnext", pretrained=True)
    assert str(error.value) == "cannot fetch timm:test_convnext: we cannot reach the hub"
    assert error.value.exit_code == 1


def test_pretrained_weights_are_asked_of_timm(monkeypatch):
    model, asked = tiny(), []
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: asked.append((a, k)) or model)
    source = open_source("timm:test_convnext", pretrained=True)
    assert asked == [(("test_convnext",), {"pretrained": True})]
    assert source.model is model
    assert source.notes == ()


def test_a_hub_name_becomes_an_architecture_that_needs_no_hub(monkeypatch):
    model = tiny()
    real = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, **k: model if ":" in name else real(name, **k)
    )
    source = open_source("timm:hf-hub:someone/convnext", pretrained=True)
    assert source.base.name == "convnext_atto"
    assert source.base.args["dims"] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"arch": "resnet18"}, r"--arch is for weight files, not for timm:test_convnext"),
        ({"use_ema": True}, r"--use-ema is for weight files"),
        ({"trust_pickle": True}, r"--trust-pickle is for weight files"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        open_source("timm:test_convnext", **options)


def test_pretrained_is_for_timm_alone(tmp_path):
    torch.save({}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"--pretrained is for timm:NAME"):
        open_source(tmp_path / "m.pt", pretrained=True)


@pytest.mark.parametrize("factory", ["build", "Net"])
def test_a_factory_in_the_working_directory_is_a_source(own_code, factory):
    source = open_source(f"python:own_code:{factory}", model_args={"width": 6})
    assert source.model.fc.in_features == 6
    assert source.base.to_dict() == {
        "kind": "python",
        "name": f"own_code:{factory}",
        "args": {"width": 6},
    }
    assert source.input_size is None


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("own_code", r"expected python:package.module:factory"),
        ("own_cod:build", r"cannot import own_cod: ModuleNotFoundError"),
        ("broken_code:build", r"cannot import broken_code: .*nothing_like_this"),
        ("own_code:biuld", r"own_code has no 'biuld', did you mean 'build'"),
        ("own_code:CONSTANT", r"CONSTANT is of type int, not a function or class to call"),
        ("own_code:model", r"model is of type Linear, not a function or class to call"),
        ("own_code:wrong", r"of type dict, not a torch.nn.Module"),
        ("own_code:fails", r"the call failed: OSError: no data here"),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(own_code, name, match):
    with pytest.raises(InputError, match=match) as error:
        open_source(f"python:{name}")
    assert len(str(error.value).splitlines()) == 1
