"""Blends, metrics and checkpoints by themselves."""

from __future__ import annotations

import json

import pytest
from torch import nn

from dcnify.errors import InputError
from dcnify.finetune.checkpoints import KEPT, Checkpoints, TrainingState
from dcnify.finetune.metrics import Reporter
from dcnify.finetune.score import Score
from dcnify.finetune.training.handover_schedule import HandoverSchedule
from dcnify.nn import Handover
from dcnify.recipe.finetune.section import HandOver


def handing():
    return nn.ModuleDict({"layer": Handover(nn.Linear(2, 2), nn.Linear(2, 2))})


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_blend_falls_to_nothing_by_its_step_and_stays_there(schedule):
    model, averaged = handing(), handing()
    blend = HandoverSchedule(model, HandOver(until=0.5, schedule=schedule))
    seen = []
    for step in range(20):
        blend.set(step, 20, averaged)
        assert model["layer"].blend == averaged["layer"].blend
        seen.append(model["layer"].blend.item())
        assert blend.over == (seen[-1] == 0)
    assert seen == sorted(seen, reverse=True)
    assert 0.85 < seen[0] < 1
    assert seen[4] == pytest.approx(0.5)
    assert min(seen[:9]) > 0
    assert seen[9:] == [0.0] * 11


def test_a_handover_of_one_step_is_over_at_once():
    model = handing()
    HandoverSchedule(model, HandOver(until=0.01)).set(0, 1, None)
    assert model["layer"].blend == 0


def test_without_a_handover_the_blend_stays():
    model = handing()
    blend = HandoverSchedule(model, None)
    blend.set(0, 1, None)
    assert (blend.blend, blend.over) == (1.0, False)
    assert HandoverSchedule(nn.Linear(2, 2), None).over


def test_metrics_go_on_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "folder" / "metrics.jsonl"
    metrics = Reporter(path, 0, None)
    for step in range(4):
        metrics.validation("a", step, Score("accuracy", 0.5))
    assert metrics.lines == 4
    metrics.close()
    with path.open("a") as file:
        file.write('{"torn')
    metrics = Reporter(path, 2, None)
    metrics.validation("a", 7, Score("accuracy", 0.5))
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 7]
    assert [one.name for one in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_process_that_writes_no_metrics_still_counts_nothing():
    metrics = Reporter(None, 3, None)
    metrics.validation("a", 1, Score("accuracy", 0.5))
    metrics.close()
    assert metrics.lines == 3


def saving(folder):
    (folder / "weights").write_text("numbers")


def failing(problem):
    def save(folder):
        raise problem

    return save


def test_the_last_checkpoints_are_kept_and_the_newest_sound_one_is_used(tmp_path):
    said = []
    checkpoints = Checkpoints(tmp_path / "c", said.append)
    assert list(checkpoints.newest()) == []
    for stage, step in ((0, 5), (0, 10), (1, 0), (1, 3)):
        position = TrainingState(stage=stage, step=step, lines=step)
        assert checkpoints.write(saving, position, main=True)
    names = sorted(one.name for one in (tmp_path / "c").iterdir())
    assert names == ["01-00000000", "01-00000003"]
    assert len(names) == KEPT
    path, position = next(checkpoints.newest())
    assert (path.name, position) == ("01-00000003", TrainingState(stage=1, step=3, lines=3))
    (path / "weights").write_text("nonsense")
    path, position = next(checkpoints.newest())
    assert path.name == "01-00000000"
    assert "weights is not as it was written" in said[0]
    checkpoints.clear()
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "problem",
    [OSError(28, "No space left on device"), RuntimeError("file write failed\nmore")],
    ids=["os", "torch"],
)
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(problem, tmp_path):
    said = []
    checkpoints = Checkpoints(tmp_path / "c", said.append)
    checkpoints.write(saving, TrainingState(step=1), main=True)
    assert not checkpoints.write(failing(problem), TrainingState(step=2), main=True)
    assert [one.name for one in (tmp_path / "c").iterdir()] == ["00-00000001"]
    words = (problem.args[-1]).splitlines()[0].lower()
    assert said == [f"no checkpoint at step 2: {words}; going on without"]


def test_what_is_no_trouble_of_the_disk_is_not_hidden(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", print)
    with pytest.raises(KeyError):
        checkpoints.write(failing(KeyError("bug")), TrainingState(step=2), main=True)


@pytest.mark.parametrize(
    "data",
    [
        {"stage": -1, "step": 0, "best_at": [0, 0]},
        {"stage": 0, "step": True, "best_at": [0, 0]},
        {"stage": 0, "step": 0, "best_at": [0, 0], "more": 1},
    ],
)
def test_a_state_is_checked(data):
    with pytest.raises((ValueError, InputError), match=r".+"):
        TrainingState.from_dict(data)
    whole = TrainingState(1, 2, 3.0, 4, 0.5, (1, 2), {"a": 0.5})
    assert TrainingState.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
