"""Two processes that share out the model train as one that has it whole."""

from __future__ import annotations

import errno
import json
import os
import weakref

import pytest
import torch
from support.finetune_cases import Killed, converted, run, same, stages, weights
from support.fsdp_on_cpu import BY_SIZE, as_on_gpus
from support.two_processes import pair
from torch import nn

from dcnify.artifact import read_artifact, verify
from dcnify.finetune import METRICS, TRAINING

SGD = {
    "optimizer": "{name: sgd, lr: 0.02, clip: 0.05, options: {momentum: 0.9}}",
    "augment": "{crop_scale: [0.5, 1], hflip: 0.5, erase: 0.2}",
    "batch_size": 32,
}
LIKE_ALIGN = {"losses": "{labels: 0, features: 1, layers: 1}"}
PLAN = (
    {"name": "align", "steps": 3, "train": '"@swapped"', "ema": "null", **SGD, **LIKE_ALIGN},
    {"name": "recover", "steps": 5, "accumulate": 2, "handover": "{until: 0.6}", **SGD},
    {"name": "copy", "steps": 1, "losses": "{labels: 0, features: 1}", "ema": "null", **SGD},
)
EVERY = {"keep_every": 2, "look_every": 2}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(steady, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(folder, "out", stages(folder, *PLAN), artifact=steady, **EVERY)
    return folder / "out"


@pytest.fixture(scope="module")
def sharded(steady, tmp_path_factory):
    """The run of two processes; beside it another, which died and went on."""
    folder = tmp_path_factory.mktemp("sharded")
    stages(folder, *PLAN)
    codes = pair(_train, folder, steady, BY_SIZE, ("recover", 4), "died")
    assert codes[0] == 1  # the main one died, and whoever starts processes stops the other
    kept = sorted((folder / "died" / TRAINING / "checkpoints").iterdir())
    assert {"shard_0.pt", "shard_1.pt"} <= {one.name for one in kept[-1].iterdir()}
    assert pair(_train_and_resume, folder, steady) == [0, 0]
    return folder / "out"


def _train_and_resume(folder, artifact):
    _train(folder, artifact, BY_SIZE, out="died", resume=True)
    _note_shares(folder)
    _train(folder, artifact, BY_SIZE)
    _try_optimisers(folder)


def _train(folder, artifact, settings, dies_at=None, out="out", **more):
    """Sharded as ``settings`` say; without any, whole."""
    from dcnify.recipe import load_finetune

    if settings is not None:
        as_on_gpus(**settings)

    def watch(beat):
        if (beat.stage, beat.step) == dies_at:
            raise Killed

    plan = load_finetune(str(folder / "stages.yaml"))
    how = {"cpu": settings is None, **EVERY, **more}
    run(folder, out, plan, artifact=artifact, watch=watch, **how)


def _note_shares(folder):
    """Write down at the end of each stage how many numbers a process has of how many."""
    from torch.distributed.tensor import DTensor

    from dcnify.finetune.training.stage import StageTrainer

    finish, before = StageTrainer.finish, []

    def noted(stage):
        left = sum(one() is not None for one in before)
        (folder / f"left-{stage.stage.name}-{stage.accelerator.process_index}.json").write_text(
            json.dumps(left)
        )
        before.append(weakref.ref(stage.objective))
        kept = stage.optimizer.state_dict()["state"].values()
        tensors = {
            "model": list(stage.model.parameters()),
            "average": list(stage.ema.module.parameters()) if stage.ema else [],
            "optimizer": [one["momentum_buffer"] for one in kept if "momentum_buffer" in one],
        }
        seen = {
            what: {
                "sharded": all(isinstance(one, DTensor) for one in some),
                "mine": sum(one.to_local().numel() for one in some),
                "all": sum(one.numel() for one in some),
            }
            for what, some in tensors.items()
            if some
        }
        number = stage.accelerator.process_index
        (folder / f"shares-{stage.stage.name}-{number}.json").write_text(json.dumps(seen))
        finish(stage)

    StageTrainer.finish = noted


def _apart(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    pairs = {key: (one[key].double(), other[key].double()) for key in one}
    apart = {k: (a - b).norm() / b.norm().clamp_min(1e-3) for k, (a, b) in pairs.items()}
    worst = max(apart, key=apart.get)
    return float(apart[worst]), worst


def _lines(path):
    return [json.loads(line) for line in (path / TRAINING / METRICS).read_text().splitlines()]


def test_shares_come_to_what_the_whole_does(sharded, alone):
    """Gradients begin at layers in two stages; one averages, accumulates and hands over."""
    apart, worst = _apart(sharded, alone)
    assert apart < 1e-3, worst


def test_losses_and_accuracies_are_those_of_all_images(sharded, alone):
    for mine, theirs in zip(_lines(sharded), _lines(alone), strict=True):
        assert [mine[k] for k in ("kind", "stage", "step")] == [
            theirs[k] for k in ("kind", "stage", "step")
        ]
        if mine["kind"] == "train":
            assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-3)
        else:
            assert mine["accuracy"] == pytest.approx(theirs["accuracy"], abs=0.002)
    told = read_artifact(sharded).report["finetune"][0]
    assert (told["processes"], told["fsdp"]) == (2, True)


def test_each_process_holds_about_half_of_everything(sharded):
    for stage, parts in (("align", {"model", "optimizer"}), ("recover", {"model", "average"})):
        both = [
            json.loads((sharded.parent / f"shares-{stage}-{number}.json").read_text())
            for number in (0, 1)
        ]
        assert parts <= both[0].keys()
        for part in both[0]:
            assert all(one[part]["sharded"] for one in both), part
            assert sum(one[part]["mine"] for one in both) == both[0][part]["all"], part
            assert both[0][part]["mine"] < 0.6 * both[0][part]["all"], part


def test_a_stage_lets_go_of_its_shares_before_the_next(sharded):
    left = [json.loads(one.read_text()) for one in sharded.parent.glob("left-*.json")]
    assert left == [0] * 6


def test_the_artifact_is_as_any_other(sharded, made):
    assert weights(sharded).keys() == weights(made).keys()
    assert all(check.passed for check in verify(read_artifact(sharded)).checks)


def test_shares_go_on_where_they_were(sharded):
    assert same(sharded.with_name("died"), sharded)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """DDP beside FSDP all in one piece, of which one process cannot write its part.

    Half precision, recomputed activations, and batch norms.
    """
    folder = tmp_path_factory.mktemp("other")
    converted(folder, drop_path_rate=0.0, conv_mlp=True, norm_layer="batchnorm2d")
    stage = {**SGD, "steps": 2, "amp": "bf16", "checkpointing": "true", "ema": "0.5"}
    for name, target in (("ddp", _train_whole), ("fsdp", _train_with_a_full_disk)):
        (folder / name).mkdir()
        stages(folder / name, {"name": "one", **stage}, {"name": "two", **stage, "ema": "null"})
        assert pair(target, folder / name, folder / "converted") == [0, 0]
    return folder


def _train_whole(folder, artifact):
    _train(folder, artifact, None)


def _train_with_a_full_disk(folder, artifact):
    save = torch.save

    def full(state, path, *more):
        if path.name == "shard_1.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, path, *more)

    torch.save = full
    said = []
    _train(folder, artifact, {}, say=said.append)
    if said:
        (folder / "said").write_text("\n".join(said))


def test_shares_come_to_what_ddp_does(other):
    apart, worst = _apart(other / "fsdp" / "out", other / "ddp" / "out")
    assert apart < 1e-3, worst


def test_a_process_that_cannot_write_costs_the_checkpoint_alone(other):
    said = (other / "fsdp" / "said").read_text()
    assert "no checkpoint at step 2: no space left on device; going on without" in said


def test_every_optimiser_that_is_let_through_does_with_shares_what_it_does_without(sharded):
    from dcnify.finetune.parallel.shard_checks import OPTIMIZERS

    apart = json.loads((sharded.parent / "apart").read_text())
    assert apart.keys() == set(OPTIMIZERS)
    assert max(apart.values()) < 1e-5, apart


def _try_optimisers(folder):
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from dcnify.finetune.parallel.shard_checks import OPTIMIZERS
    from dcnify.finetune.parallel.sharded import packed_state, unpacked_state
    from dcnify.finetune.training.optimizer import create_optimizer
    from dcnify.recipe.finetune.section import Optimizer

    images = torch.randn(6, 8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mine = images.chunk(2, dim=1)[dist.get_rank()]

    def learned(name, sharded):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 1))
        if sharded:
            fully_shard(model)
        chosen = Optimizer(name=name, lr=1e-2)
        optimizer = create_optimizer(model, chosen, 8)
        for number, batch in enumerate(mine if sharded else images):
            if sharded and number == 3:  # as if it went on from a checkpoint
                state = packed_state(optimizer.state_dict())
                optimizer = create_optimizer(model, chosen, 8)
                optimizer.load_state_dict(unpacked_state(state, optimizer))
            model(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        values = model.state_dict()
        return {k: v.full_tensor() if sharded else v for k, v in values.items()}

    apart = {}
    for name in OPTIMIZERS:
        whole, shares = learned(name, False), learned(name, True)
        apart[name] = max(float((whole[k] - shares[k]).norm() / whole[k].norm()) for k in whole)
    (folder / "apart").write_text(json.dumps(apart))
