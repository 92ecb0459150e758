"""Fine-tuning on a CUDA device: precision, compilation, resuming, FSDP."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("sklearn")

import torch
from support.finetune_cases import QUICK, stages, weights
from support.two_processes import free_port

from dcnify.data import open_labelled
from dcnify.finetune import Options, finetune

pytestmark = pytest.mark.gpu
STAGE = {**QUICK, "name": "s", "steps": 6, "batch_size": 32}


def on_gpu(folder, out, plan, artifact, **options):
    heard = {"watch": options.pop("watch")} if "watch" in options else {}
    return finetune(
        artifact,
        lambda classes, mode: open_labelled(
            "builtin:cluttered-digits", classes=classes, mode=mode, count=192
        ),
        folder / out,
        plan,
        options=Options(crop_pct=1.0, workers=0, **options),
        **heard,
    )


@pytest.mark.parametrize("amp", ["no", "fp16", "bf16"])
def test_every_precision_trains_on_the_gpu_and_saves_for_the_cpu(amp, made, tmp_path):
    beats = []
    on_gpu(tmp_path, "out", stages(tmp_path, {**STAGE, "amp": amp}), made, watch=beats.append)
    assert all(torch.isfinite(torch.tensor(beat.loss)) for beat in beats)
    assert beats[-1].memory > 0
    before, after = weights(made), weights(tmp_path / "out")
    assert all(value.device.type == "cpu" for value in after.values())
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_compiled_stage_trains_on_the_gpu(made, tmp_path):
    on_gpu(tmp_path, "out", stages(tmp_path, {**STAGE, "compile": "true"}), made)
    assert weights(tmp_path / "out").keys() == weights(made).keys()


def test_layers_hand_over_on_the_gpu(handing_over, made, tmp_path):
    plan = stages(tmp_path, {**STAGE, "handover": "{until: 0.5}"})
    on_gpu(tmp_path, "out", plan, handing_over)
    assert weights(tmp_path / "out").keys() == weights(made).keys()


def test_a_run_that_died_goes_on_to_nearly_the_same_weights(made, tmp_path):
    """Nearly: sums on a GPU are in no fixed order."""

    class Died(Exception):
        pass

    def die(beat):
        if beat.step == 4:
            raise Died

    plan = stages(tmp_path, STAGE)
    on_gpu(tmp_path, "whole", plan, made, keep_every=2)
    with pytest.raises(Died):
        on_gpu(tmp_path, "out", plan, made, keep_every=2, watch=die)
    on_gpu(tmp_path, "out", plan, made, keep_every=2, resume=True)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "out")
    apart = [float((one[k] - other[k]).abs().max()) for k in one if one[k].is_floating_point()]
    assert max(apart) < 1e-2


@pytest.mark.parametrize(
    ("amp", "how", "near"),
    [("no", {}, 1e-2), ("fp16", {}, 0.1), ("bf16", {"compile": "true"}, 0.1)],
    ids=["no", "fp16", "bf16, compiled"],
)
def test_fsdp_on_one_gpu_comes_to_nearly_the_same_weights(amp, how, near, handing_over, tmp_path):
    """One process has all the shares; all the rest is as with more."""
    sgd = {"optimizer": "{name: sgd, lr: 0.02}", "augment": "none", "amp": amp, **how}
    plan = stages(
        tmp_path,
        {**STAGE, "name": "align", "steps": 3, "train": '"@swapped"', **sgd},
        {**STAGE, "name": "recover", "accumulate": 2, "handover": "{until: 0.5}", **sgd},
    )
    on_gpu(tmp_path, "whole", plan, handing_over)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1"]
    command += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    command += ["-m", "dcnify", "finetune", handing_over, "-o", tmp_path / "shares", "--workers", 0]
    command += ["--data", "builtin:cluttered-digits", "--image-count", "192"]
    command += ["-r", tmp_path / "stages.yaml", "--crop-pct", "1", "--checkpoint-every", "2"]
    asked = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "ConvNeXtBlock",
    }
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "shares")
    assert one.keys() == other.keys()
    apart = [float((one[k] - other[k]).abs().max()) for k in one if one[k].is_floating_point()]
    assert max(apart) < near
