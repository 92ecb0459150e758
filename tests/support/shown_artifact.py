"""A small artifact that reports, pictures and diffs are made of."""

import pytest
import timm
import torch

from dcnify.cli import main

RECIPE = """
version: 1
name: late
swaps:
  - name: dw
    select: {role: depthwise_conv, stages: [1, 2, 3]}
    replace: {with: dcnv4, group_channels: 8}
    init: fit
require: {agreement: 0.01, on_violation: warn}
"""


@pytest.fixture(scope="session")
def shown_artifact(tmp_path_factory):
    """``out``, converted by ``late.yaml`` from ``model.pt``, in one folder."""
    place = tmp_path_factory.mktemp("shown")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext").state_dict(), place / "model.pt")
    (place / "late.yaml").write_text(RECIPE)
    model = ("convert", str(place / "model.pt"), "--arch", "test_convnext", "--input-size", "64")
    assert main((*model, "-r", str(place / "late.yaml"), "-o", str(place / "out"), "-q")) == 0
    return place / "out"
