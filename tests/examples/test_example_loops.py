"""The example loops, on a small model and a few digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from support.processes import run_python

import dcnify
from dcnify.artifact import open_source, read_artifact, verify

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = "builtin:cluttered-digits"


@pytest.fixture(scope="module")
def examples():
    """The folder of the examples on the path, as it is for a script that runs in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield


@pytest.fixture(scope="module")
def small(examples, tmp_path_factory):
    """An artifact of ten classes and its original."""
    from small_artifact import small_artifact

    torch.manual_seed(0)
    return small_artifact(tmp_path_factory.mktemp("small"))


def test_a_loop_of_ones_own_trains_what_was_converted_and_writes_it_again(small, tmp_path):
    import own_loop

    artifact, original = small
    losses = own_loop.train(artifact, original, tmp_path / "out", DATA, steps=3)
    assert len(losses) == 3
    before, after = (dcnify.load(one).state_dict() for one in (artifact, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in before if ".conv_dw." in key)
    checks = verify(read_artifact(tmp_path / "out"), against=open_source(original))
    assert not checks.failed


def test_the_original_is_not_needed_to_train(small, tmp_path):
    import own_loop

    (loss,) = own_loop.train(small[0], None, tmp_path / "out", DATA, steps=1)
    assert loss == pytest.approx(2.3, abs=0.5)  # ten classes, untrained


@pytest.mark.slow
def test_timms_parts_train_a_converted_model_and_its_checkpoint_loads_back(examples, tmp_path):
    import timm_loop
    from small_artifact import small_artifact

    artifact, _ = small_artifact(tmp_path / "small", classes=7)
    out = tmp_path / "out"
    best, top1 = timm_loop.train(artifact, out, DATA, count=128, epochs=1)
    assert best.num_classes == 10
    assert 0 <= top1 <= 100
    kept = timm.models.load_state_dict(str(out / "model_best.pth.tar"), use_ema=True)
    loaded = dcnify.load(out / "artifact").state_dict()
    assert kept.keys() == loaded.keys()
    assert all(torch.equal(kept[key], loaded[key]) for key in kept)
    assert not verify(read_artifact(out / "artifact")).failed


def test_layer_decay_follows_the_models_own_groups(small):
    from timm.optim import create_optimizer_v2

    model = dcnify.load(small[0])
    groups = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5).param_groups
    scale = {id(one): group["lr_scale"] for group in groups for one in group["params"]}
    paths = [swap.site.path for swap in read_artifact(small[0]).plan.swaps]
    layers = [scale[id(next(model.get_submodule(path).parameters()))] for path in paths]
    assert layers == sorted(layers)
    assert layers[0] < layers[-1] < scale[id(model.head.fc.weight)] == 1


def test_training_goes_on_from_timms_checkpoint(small, tmp_path):
    from timm.models import resume_checkpoint
    from timm.utils import CheckpointSaver

    models = [dcnify.load(small[0]) for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in models]

    def step(model, optimizer):
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        model.train()(images).square().mean().backward()
        optimizer.step()

    step(models[0], optimizers[0])
    CheckpointSaver(models[0], optimizers[0], checkpoint_dir=str(tmp_path)).save_checkpoint(0)
    assert resume_checkpoint(models[1], str(tmp_path / "last.pth.tar"), optimizers[1]) == 1
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("own_loop.py", ["--steps", "2"], "after 2 steps"),
        ("timm_loop.py", ["--epochs", "1", "--image-count", "64"], "loaded again"),
    ],
)
def test_it_runs_without_anything_given_but_an_output(script, options, said, tmp_path):
    done = run_python(EXAMPLES / script, "-o", tmp_path / "made" / "out", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
