"""A `SourceSpec` is plain data, and refuses what cannot work before torch is imported."""

import os
import subprocess
import sys

import pytest
import torch
from support.artifact_standin import assert_same, tiny

from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.sources.spec import SourceSpec


def test_a_spec_survives_json():
    spec = SourceSpec(
        "model.pt", arch="convnext_atto", model_arg=("depths=[1,2]", "act=gelu"), use_ema=True
    )
    assert SourceSpec.from_json(spec.to_json()) == spec
    assert spec.model_args == {"depths": [1, 2], "act": "gelu"}


def test_a_spec_opens_what_its_options_say(tmp_path):
    model = tiny()
    torch.save({"model": model.state_dict()}, tmp_path / "m.pt")
    sizes = ("depths=[1,1,1,1]", "dims=(8,16,24,32)")
    spec = SourceSpec(str(tmp_path / "m.pt"), arch="convnext_atto", model_arg=sizes)
    assert_same(model, open_source(spec).model)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("", r"source is empty.*timm:convnext_tiny"),
        ("timm:", r"^timm:.*timm:convnext_tiny"),
        ("python:", r"^python:.*python:package.module:factory"),
        ("python:own_code", r"python:package.module:factory"),
        ("foo:bar", r"^foo:bar.*'foo:'.*timm:convnext_tiny"),
        ("tim:convnext_tiny", r"'tim:'.*did you mean 'timm:'"),
        ("Python:a:b", r"'Python:'.*did you mean 'python:'"),
        ("hf-hub:timm/resnet18", r"write timm:hf-hub:timm/resnet18"),
        ("convnext_tiny", r"convnext_tiny does not exist.*timm:convnext_tiny"),
        ("x" * 3000, r"cannot be read"),
        ("no/such/model.pt", r"no/such/model.pt does not exist$"),
        ("model_bset.pth", r"does not exist, did you mean 'model_best.pth'"),
    ],
)
def test_what_cannot_be_a_source_is_refused_with_the_nearest_one(
    tmp_path, monkeypatch, source, match
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_best.pth").touch()
    with pytest.raises(InputError, match=match) as error:
        SourceSpec(source).check()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model_arg": ("depths",)}, r"--model-arg depths.*KEY=VALUE"),
        ({"input_size": "huge"}, r"--input-size huge.*224x320"),
        ({"input_size": "3x0x8"}, r"--input-size 3x0x8"),
        ({"arch": "resnet18"}, r"--arch.*timm:test_vit"),
    ],
)
def test_options_are_checked_with_the_source(options, match):
    with pytest.raises(InputError, match=match):
        SourceSpec("timm:test_vit", **options).check()


def test_a_file_whose_name_looks_like_a_prefix_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foo:bar").touch()
    SourceSpec("foo:bar").check()


@pytest.mark.parametrize(
    ("size", "shape"),
    [(None, (3, 96, 64)), ("32", (3, 32, 32)), ("32x48", (3, 32, 48)), ("1x32,48", (1, 32, 48))],
)
def test_an_input_size_completes_the_model_s_own(size, shape):
    assert SourceSpec("timm:test_vit", input_size=size).input_shape((3, 96, 64)) == shape


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix thing")
def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model.pt is neither a regular file nor a folder"):
        open_source(tmp_path / "model.pt")


def test_a_check_imports_neither_torch_nor_timm():
    code = (
        "import sys; from dcnify.sources.spec import SourceSpec; SourceSpec('timm:x').check(); "
        "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
