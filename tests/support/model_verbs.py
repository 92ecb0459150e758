"""The command line in an empty folder, with a checkpoint and a recipe for its verbs."""

from __future__ import annotations

import pytest
import timm
import torch

from dcnify.cli import main

SMALL = ("--input-size", "64")
ARCH = ("--arch", "test_convnext")
RECIPE = """\
version: 1
name: mine
swaps:
  - name: late
    select: {role: depthwise_conv, stages: [2, 3]}
    replace: {with: dcnv4}
"""


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return timm.create_model("test_convnext").state_dict()


@pytest.fixture
def checkpoint(weights, tmp_path):
    torch.save(weights, tmp_path / "model.pt")
    return "model.pt"
