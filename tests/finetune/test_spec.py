"""The request of a fine-tuning is plain data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dcnify.data import DataSpec
from dcnify.errors import InputError
from dcnify.finetune import Options, TrainSpec
from dcnify.sources.spec import SourceSpec


def test_a_request_comes_back_from_json_as_it_was():
    spec = TrainSpec(
        artifact="out/",
        data=DataSpec("photos/", val_split="test"),
        overrides=("stages.recover.epochs=5",),
        teacher=SourceSpec("timm:resnet18", model_arg=("num_classes=10",)),
        look_every=10,
        crop_pct=0.9,
    )
    assert TrainSpec.from_json(spec.to_json()) == spec
    assert TrainSpec.from_dict({"artifact": "out/", "data": {"data": "photos/"}}) == TrainSpec(
        artifact="out/", data=DataSpec("photos/")
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": -1}, "workers -1: expected 0 or more"),
        ({"look_every": 0}, "0: expected 1 or more"),
        ({"crop_pct": 1.5}, "crop-pct 1.5: expected 0.01 to 1.0"),
    ],
    ids=str,
)
def test_a_number_out_of_its_range_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        Options(**options)


@pytest.mark.parametrize(
    ("artifact", "folder"),
    [("out/", "out-finetuned"), ("a/model.pt", "a/model-finetuned"), ("v1.5", "v1.5-finetuned")],
)
def test_the_output_is_beside_the_artifact_unless_it_is_named(artifact, folder):
    data = DataSpec("photos/")
    assert TrainSpec(artifact=artifact, data=data).folder == Path(folder)
    assert TrainSpec(artifact=artifact, data=data, output="mine").folder == Path("mine")


def test_a_request_needs_no_torch():
    code = "import sys, dcnify.finetune.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
