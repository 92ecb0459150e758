"""Nothing is lost: killed, interrupted, damaged, full."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time

import pytest
from support.finetune_cases import Killed, run, same, stages
from support.processes import processes

from dcnify.errors import DcnifyError, InputError
from dcnify.finetune import TRAINING, StoppedError

PLAN = (
    {"name": "align", "steps": 5, "train": '"@swapped"', "batch_size": 32},
    {"name": "recover", "epochs": 3, "batch_size": 32, "handover": "{until: 0.6}"},
)
EVERY = {"keep_every": 2, "look_every": 3}


@pytest.fixture(scope="module")
def whole(handing_over, tmp_path_factory):
    """The uninterrupted run; beside it, by stage and step, what a kill there would have left."""
    folder = tmp_path_factory.mktemp("whole")

    def copy(now):
        shutil.copytree(folder / "out", folder / f"{now.stage}-{now.step}")

    run(folder, "out", stages(folder, *PLAN), artifact=handing_over, watch=copy, **EVERY)
    return folder / "out"


def _killed(whole, stage, step, folder):
    """A run that was killed there, in ``folder``, and its plan."""
    shutil.copytree(whole.with_name(f"{stage}-{step}"), folder / "out")
    assert not (folder / "out" / "config.json").exists()
    return stages(folder, *PLAN)


@pytest.mark.slow
@pytest.mark.parametrize("at", [("align", 3), ("align", 5), ("recover", 2), ("recover", 9)])
def test_a_run_that_died_at_any_step_ends_in_the_same_weights(at, whole, handing_over, tmp_path):
    plan = _killed(whole, *at, tmp_path)
    run(tmp_path, "out", plan, artifact=handing_over, resume=True, **EVERY)
    assert same(tmp_path / "out", whole)
    assert _steps(tmp_path / "out") == _steps(whole)


@pytest.mark.slow
def test_a_run_goes_on_in_a_stage_that_follows_a_handover(handing_over, tmp_path):
    plan = (
        {"name": "recover", "steps": 3, "batch_size": 32, "handover": "{until: 0.5}"},
        {"name": "after", "steps": 3, "batch_size": 32},
    )
    how = {"artifact": handing_over, "keep_every": 1}
    run(tmp_path, "whole", stages(tmp_path, *plan), **how)
    for at in (("recover", 3), ("after", 2)):

        def die(beat, at=at):
            if (beat.stage, beat.step) == at:
                raise Killed

        out = "-".join(map(str, at))
        with pytest.raises(Killed):
            run(tmp_path, out, stages(tmp_path, *plan), watch=die, **how)
        run(tmp_path, out, stages(tmp_path, *plan), resume=True, **how)
        assert same(tmp_path / out, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_resumed_with_worker_processes_ends_in_the_same_weights(
    whole, handing_over, tmp_path
):
    plan = _killed(whole, "recover", 6, tmp_path)
    run(tmp_path, "out", plan, artifact=handing_over, resume=True, workers=1, **EVERY)
    assert same(tmp_path / "out", whole)


def _steps(path):
    import json

    lines = (path / TRAINING / "metrics.jsonl").read_text().splitlines()
    return [(one["kind"], one["stage"], one["step"]) for one in map(json.loads, lines)]


def _in_process(artifact, folder, plan, resume, limit=None):
    import torch

    torch.set_num_threads(1)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    said = []
    try:
        run(folder, "out", plan, artifact=artifact, resume=resume, say=said.append, **EVERY)
    except StoppedError as error:
        (folder / "stopped").write_text(str(error))
        os._exit(error.exit_code)
    finally:
        (folder / "said").write_text("\n".join(said))


def _started(*args):
    process = processes().Process(target=_in_process, args=args)
    process.start()
    return process


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_weights(
    whole, handing_over, tmp_path
):
    plan, out = stages(tmp_path, *PLAN), tmp_path / "out"
    draw = random.Random(0)

    def started():
        running = (out / TRAINING / "run.json").exists()
        if not running:
            shutil.rmtree(out, ignore_errors=True)
        return _started(handing_over, tmp_path, plan, running)

    for _ in range(6):
        process = started()
        for _ in range(draw.randint(1, 3)):
            before = _written(out)
            while process.is_alive() and _written(out) == before:
                time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.join()
        if (out / "config.json").exists():
            assert same(out, whole)
            shutil.rmtree(out)
    process = started()
    process.join()
    assert process.exitcode == 0
    assert same(out, whole)


def _written(out):
    """What a run has written so far: metrics, and names of checkpoints, begun ones too."""
    metrics, checkpoints = (out / TRAINING / name for name in ("metrics.jsonl", "checkpoints"))
    return (
        metrics.stat().st_size if metrics.exists() else 0,
        sorted(os.listdir(checkpoints)) if checkpoints.exists() else [],
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, whole, handing_over, tmp_path):
    plan = stages(tmp_path, *PLAN)
    process = _started(handing_over, tmp_path, plan, False)
    checkpoints = tmp_path / "out" / TRAINING / "checkpoints"
    while not (checkpoints.is_dir() and any(checkpoints.iterdir())) and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    assert "--resume goes on from here" in (tmp_path / "stopped").read_text()
    run(tmp_path, "out", plan, artifact=handing_over, resume=True, **EVERY)
    assert same(tmp_path / "out", whole)


def _checkpoints(folder):
    return sorted((folder / "out" / TRAINING / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "missing", "state"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, whole, handing_over, tmp_path):
    plan = _killed(whole, "recover", 6, tmp_path)
    last = _checkpoints(tmp_path)[-1]
    if damage == "truncated":
        data = (last / "optimizer.bin").read_bytes()
        (last / "optimizer.bin").write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        (last / "model.safetensors").unlink()
    else:
        (last / "dcnify.json").write_text("{")
    said = []
    run(tmp_path, "out", plan, artifact=handing_over, resume=True, say=said.append, **EVERY)
    assert [line for line in said if "is damaged" in line and "the one before" in line]
    assert same(tmp_path / "out", whole)


@pytest.mark.slow
def test_without_any_sound_checkpoint_it_begins_again(whole, handing_over, tmp_path):
    plan = _killed(whole, "recover", 6, tmp_path)
    for one in _checkpoints(tmp_path):
        (one / "dcnify.json").unlink()
    said = []
    run(tmp_path, "out", plan, artifact=handing_over, resume=True, say=said.append, **EVERY)
    assert "there is no checkpoint yet: beginning from the artifact" in said
    assert same(tmp_path / "out", whole)


@pytest.mark.slow
def test_checkpoints_that_cannot_be_written_cost_one_line_each(handing_over, tmp_path):
    """Files may not grow beyond a size, which the weights do: as on a disk that is full."""
    plan = stages(tmp_path, *PLAN)
    process = _started(handing_over, tmp_path, plan, False, 12_000)
    process.join()
    said = (tmp_path / "said").read_text()
    assert "no checkpoint at step 2: " in said
    assert not (tmp_path / "out" / TRAINING / "checkpoints" / ".partial").exists()
    assert process.exitcode == 1  # the artifact cannot be written either
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.slow
def test_a_loss_that_becomes_nan_or_infinite_stops_and_keeps_the_last_good_state(made, tmp_path):
    plan = stages(
        tmp_path,
        {"name": "s", "steps": 8, "batch_size": 32, "optimizer": "{lr: 1.0e+30, clip: null}"},
    )
    words = r"stage s, step \d+: the loss became NaN or infinite, .*--set .*stages.s.optimizer.lr="
    with pytest.raises(DcnifyError, match=words):
        run(tmp_path, "out", plan, artifact=made, keep_every=1)
    kept = sorted((tmp_path / "out" / TRAINING / "checkpoints").iterdir())
    assert kept
    better = stages(tmp_path, {"name": "s", "steps": 8, "batch_size": 32})
    said = []
    with pytest.raises(
        DcnifyError, match="NaN or infinite"
    ):  # the weights are beyond repair by then
        run(tmp_path, "out", better, artifact=made, resume=True, say=said.append)
    assert any("the new ones hold" in line for line in said)


@pytest.mark.slow
def test_what_is_resumed_must_be_the_same_run(whole, handing_over, made, tmp_path):
    plan = _killed(whole, "recover", 6, tmp_path)
    plain = stages(tmp_path, PLAN[0], {**PLAN[1], "handover": "null"})
    with pytest.raises(InputError, match="was begun with other artifact"):
        run(tmp_path, "out", plain, artifact=made, resume=True)
    with pytest.raises(InputError, match="was begun with other data"):
        run(tmp_path, "out", plan, artifact=handing_over, resume=True, count=64)
    with pytest.raises(InputError, match="was begun with other normalisation"):
        run(tmp_path, "out", plan, artifact=handing_over, resume=True, mean=(0.2,))
    other = stages(tmp_path, PLAN[0])
    with pytest.raises(InputError, match="was begun with other stages"):
        run(tmp_path, "out", other, artifact=handing_over, resume=True)
    with pytest.raises(InputError, match="pass --resume to go on, --overwrite to begin"):
        run(tmp_path, "out", plan, artifact=handing_over)
    with pytest.raises(InputError, match="holds no fine-tuning to resume"):
        run(tmp_path, "nothing", plan, artifact=handing_over, resume=True)
