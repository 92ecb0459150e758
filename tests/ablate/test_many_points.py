"""Sweeps of very many points: what they share is done once."""

from __future__ import annotations

from collections import Counter

import pytest
from support.ablations import INIT, STEPS, SWEEP, ablate

from dcnify.ablate import check, worker, workplace
from dcnify.errors import InputError
from dcnify.surgery import fits


@pytest.fixture
def work_done(monkeypatch):
    """How often what takes long is done, by its name; no trial is carried out."""
    seen = Counter()
    monkeypatch.setattr(worker.Worker, "work", lambda self: None)
    for room, name in (
        (check, "find"),
        (fits, "build_at"),
        (fits, "specify"),
        (workplace, "open_source"),
        (workplace, "open_training_images"),
        (workplace, "check_stages"),
        (workplace, "fidelity_images"),
    ):
        counting(seen, monkeypatch, room, name)
    return seen


def counting(seen, monkeypatch, room, name):
    """Count the calls of a function."""
    real = getattr(room, name)

    def counted(*given, **named):
        seen[name] += 1
        return real(*given, **named)

    monkeypatch.setattr(room, name, counted)


@pytest.mark.slow
def test_a_thousand_points_that_differ_in_swaps_share_the_model_and_its_capture(
    tmp_path, work_done
):
    scales = [round(0.5 + i / 1000, 4) for i in range(500)]
    sweep = {
        **SWEEP,
        "factors": {"swaps.dw7.replace.offset_scale": scales, INIT: ["fit", "transfer"]},
        "seeds": [0],
    }
    _, said = ablate(tmp_path / "run", sweep)
    assert "1000 trials: 1000 points x 1 seed" in said
    assert [work_done[one] for one in ("open_source", "find", "fidelity_images")] == [1, 1, 1]
    layers, kinds = 5, 4  # of the model
    assert work_done["specify"] == 500 * layers, "another init needs no other module"
    assert work_done["build_at"] == 500 * kinds


@pytest.mark.slow
def test_points_that_differ_only_in_fine_tuning_are_planned_once(tmp_path, work_done):
    sweep = {
        **SWEEP,
        "set": {"finetune": [{"use": "recover", "steps": 1, "batch_size": 8}]},
        "factors": {STEPS: list(range(1, 301))},
        "seeds": [0, 1],
        "measure": ["finetune"],
    }
    _, said = ablate(tmp_path / "run", sweep, data="builtin:cluttered-digits")
    assert any(line.startswith("600 trials: 300 points x 2 seeds; 2 conv") for line in said)
    assert (work_done["specify"], work_done["build_at"]) == (5, 4)
    assert (work_done["open_source"], work_done["open_training_images"]) == (1, 1)
    assert work_done["check_stages"] == 300


@pytest.mark.slow
def test_a_stage_that_the_images_do_not_fit_is_refused_with_its_point(tmp_path):
    batch = "finetune.stages.recover.batch_size"
    sweep = {
        **SWEEP,
        "set": {"finetune": [{"use": "recover", "steps": 1, "batch_size": 8}]},
        "factors": {batch: [8, 100_000]},
        "measure": ["finetune"],
    }
    with pytest.raises(InputError) as caught:
        ablate(tmp_path / "run", sweep, data="builtin:cluttered-digits")
    assert "a batch of 100000 is larger than the dataset" in str(caught.value)
    assert str(caught.value).endswith("(point batch_size=100000)")
    assert not (tmp_path / "run").exists()
