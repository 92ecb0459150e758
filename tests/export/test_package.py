"""PyTorch's own formats: loaded by a process that imports dcnify and nothing else of ours."""

from __future__ import annotations

import json
import sys
import zipfile

import pytest
import torch
from support.processes import run_python
from support.two_inputs_for_export import TwoInputs
from torch import nn

import dcnify

LOADS = """
import sys
import torch
import dcnify

x = torch.load("x.pt")
model = torch.export.load("m.pt2").module()
torch.save([model(x), model(x[:, :, :64, :72])], "y.pt")
"""


def test_an_exported_program_takes_any_size(converted, tmp_path):
    done = dcnify.export(converted, tmp_path / "m.pt2", dynamic="batch,height,width")
    assert done.format == "pt2"
    assert done.inputs == {"x": ("batch", 3, "height", "width")}
    assert done.outputs == {"output": ("batch", 5)}
    assert done.notes == ("the program takes height from 64 and width from 64 pixels on",)
    x = torch.randn(3, 3, 64, 96)
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "load.py").write_text(LOADS)
    finished = run_python("load.py", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = torch.load(tmp_path / "y.pt")
    with torch.no_grad():
        for y, given in zip(found, (x, x[:, :, :64, :72]), strict=True):
            torch.testing.assert_close(y, converted.model(given), rtol=1e-4, atol=1e-5)


def test_it_says_what_it_is(converted, tmp_path):
    dcnify.export(converted, tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as held:
        name = next(one for one in held.namelist() if one.endswith("dcnify.json"))
        about = json.loads(held.read(name))
    assert about["dcnify.version"] == dcnify.__version__
    assert json.loads(about["dcnify.plan"])["swaps"]


def test_an_output_by_name_stays_one(tmp_path):
    x = torch.randn(2, 3, 16, 16)
    example = dcnify.Example((x,), {"step": torch.tensor([3.0, 2.0])})
    model = TwoInputs().eval()
    done = dcnify.export(model, tmp_path / "m.pt2", example=example, dynamic="batch")
    assert list(done.outputs) == ["maps", "pooled"]
    loaded = torch.export.load(tmp_path / "m.pt2").module()
    found = loaded(x[:1].repeat(5, 1, 1, 1), step=torch.ones(5))
    assert found["maps"].shape == (5, 4, 16, 16)


def test_bfloat16_stays(tmp_path):
    x = torch.randn(2, 3, 16, 16)
    model = nn.Conv2d(3, 4, 3).bfloat16().eval()
    done = dcnify.export(model, tmp_path / "m.pt2", example=x.bfloat16())
    assert done.dtype == "bfloat16"
    assert 1e-4 < done.error < 1e-1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a C++ compiler that torch knows")
def test_a_compiled_package(converted, tmp_path):
    path = tmp_path / "m.pt2"
    done = dcnify.export(converted, path, format="aoti", dynamic="batch")
    assert done.error < 1e-4
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        found = torch._inductor.aoti_load_package(str(path))(x)
        torch.testing.assert_close(found, converted.model(x), rtol=1e-4, atol=1e-5)
