"""Two processes train as one does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from support.finetune_cases import Killed, run, same, stages, weights
from support.pictures import class_folders
from support.two_processes import free_port, pair

from dcnify.artifact import read_artifact
from dcnify.finetune import METRICS, TRAINING

SGD = {
    "optimizer": "{name: sgd, lr: 0.02, options: {momentum: 0.9}}",
    "augment": "{crop_scale: [0.5, 1], hflip: 0.5, erase: 0.2}",
    "batch_size": 32,
}
PLAN = (
    {"name": "align", "steps": 3, "train": '"@swapped"', "ema": "null", **SGD},
    {"name": "recover", "steps": 5, "accumulate": 2, "handover": "{until: 0.6}", **SGD},
)
EVERY = {"keep_every": 2, "look_every": 2}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(steady, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(folder, "out", stages(folder, *PLAN), artifact=steady, **EVERY)
    return folder / "out"


@pytest.fixture(scope="module")
def together(steady, tmp_path_factory):
    """The run of two processes; beside it another, which died and went on."""
    folder = tmp_path_factory.mktemp("together")
    stages(folder, *PLAN)
    codes = pair(_train, folder, steady, ("recover", 4), "died")
    assert codes[0] == 1  # the main one died, and whoever starts processes stops the other
    assert pair(_train_and_resume, folder, steady) == [0, 0]
    return folder / "out"


def _train_and_resume(folder, artifact):
    _train(folder, artifact)
    _train(folder, artifact, out="died", resume=True)


def _train(folder, artifact, dies_at=None, out="out", **more):
    from dcnify.recipe import load_finetune

    def watch(beat):
        if (beat.stage, beat.step) == dies_at:
            raise Killed

    plan = load_finetune(str(folder / "stages.yaml"))
    run(folder, out, plan, artifact=artifact, watch=watch, **EVERY, **more)


def _lines(path):
    return [json.loads(line) for line in (path / TRAINING / METRICS).read_text().splitlines()]


def test_two_processes_come_to_what_one_does(together, alone):
    one, two = weights(alone), weights(together)
    before = {k: (one[k] - two[k]).norm() / one[k].norm().clamp_min(1e-3) for k in one}
    assert one.keys() == two.keys()
    assert max(before.values()) < 1e-3, max(before, key=before.get)


def test_losses_and_accuracies_are_those_of_all_images(together, alone):
    for mine, theirs in zip(_lines(together), _lines(alone), strict=True):
        assert (mine["kind"], mine["stage"], mine["step"]) == (
            theirs["kind"],
            theirs["stage"],
            theirs["step"],
        )
        if mine["kind"] == "train":
            for name, value in theirs["terms"].items():
                assert mine["terms"][name] == pytest.approx(value, rel=1e-3), name
        else:
            assert mine["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.002)
    told = [read_artifact(one).report["finetune"][0] for one in (together, alone)]
    assert [one["processes"] for one in told] == [2, 1]
    assert told[0]["original"] == told[1]["original"]


def test_two_processes_go_on_where_they_were(together):
    assert same(together.with_name("died"), together)


def test_torchrun_passes_a_signal_on_and_every_process_stops_after_a_checkpoint(steady, tmp_path):
    stages(tmp_path, {"name": "s", "steps": 100_000, "batch_size": 32, "augment": "none"})
    out, said = tmp_path / "out", tmp_path / "said"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    command += ["-m", "dcnify", "finetune", steady, "--cpu", "-o", out]
    command += ["--data", class_folders(tmp_path / "pictures"), "--workers", "1"]
    command += ["-r", tmp_path / "stages.yaml", "--validate-every", "100000"]
    with said.open("w") as file:
        process = subprocess.Popen([str(part) for part in command], stderr=file, stdout=file)
    checkpoints = out / TRAINING / "checkpoints"
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and len(_sealed(checkpoints)) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    words = said.read_text()
    assert words.count("the same command with --resume goes on from here") == 1, words
    assert words.count("error: ") == 1
    assert "DataLoader worker" not in words
    assert "forcefully" not in words  # they have ended by themselves
    state = json.loads((_sealed(checkpoints)[-1] / "dcnify.json").read_text())
    assert f"stopped at stage s, step {state['position']['step']} of 100000" in words
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= state["files"].keys()


def _sealed(folder):
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if one.name != ".partial")
