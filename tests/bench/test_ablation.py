"""The ablation of the layer: variants that must agree do, and each is timed beside the base."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch

from dcnify.bench import OpBenchSpec, run_ablation, settle
from dcnify.bench.ablation import run
from dcnify.bench.ablation.variants import BASE, VARIANTS, Layer, Variant, image
from dcnify.bench.case import Case
from dcnify.bench.shapes import Shape
from dcnify.cli import main
from dcnify.errors import CheckError

CASE = Case(Shape(6, 7, 16, 2), 2, torch.float64, torch.device("cpu"), True, offset_spread=1.5)
TINY = {"shapes": ("5x6x32g2",), "batch": 1, "seconds": 0.01, "device": "cpu"}
NAMES = [variant.name for variant in VARIANTS]


@pytest.mark.parametrize("variant", [one for one in VARIANTS if one.same_function])
def test_variants_of_the_same_function_agree_with_their_gradients(variant):
    x = image(CASE).requires_grad_()
    grad = CASE.randn(*x.shape)
    answers = []
    for layer in (Layer(CASE), variant.make(CASE)):
        y = layer(x)
        weights = [layer.dcn.value_proj.weight, layer.dcn.offset_mask_dw.weight]
        answers.append((y, *torch.autograd.grad(y, [x, *weights], grad)))
    for base, found in zip(*answers, strict=True):
        assert torch.allclose(found, base, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", [one for one in VARIANTS if not one.same_function and not
                                     one.dtype and one.name != BASE])  # fmt: skip
def test_other_variants_are_other_functions_of_the_same_shape(variant):
    x = image(CASE)
    base, found = Layer(CASE)(x), variant.make(CASE)(x)
    assert found.shape == base.shape
    assert not torch.allclose(found, base, rtol=1e-2)


def test_the_offsets_have_the_spread_that_was_asked_for():
    case = replace(CASE, shape=Shape(24, 24, 64, 4))
    layer = Layer(case)
    with torch.no_grad():
        packed = layer.dcn.offset_mask(layer.seen(image(case)))
    per_group = packed[..., : case.sampling.offset_mask_channels].unflatten(-1, (4, 27))
    assert per_group[..., :18].std().item() == pytest.approx(1.5, rel=0.15)
    assert per_group[..., 18:].std().item() == pytest.approx(1.0, rel=0.15)


def test_every_variant_is_timed_against_the_base_round_by_round():
    report = run_ablation(settle(OpBenchSpec(ablation=True, passes=("forward",), **TINY)))
    (case,) = report.cases
    assert [one.variant for one in case.timings] == [name for name in NAMES if name != "float32"]
    base = case.timings[0]
    assert (base.ratio_p20, base.ratio_p50, base.ratio_p80) == (1.0, 1.0, 1.0)
    assert all(0 < one.ratio_p20 <= one.ratio_p50 <= one.ratio_p80 for one in case.timings)
    assert len({one.rounds for one in case.timings}) == 1


def test_a_variant_that_cannot_run_is_left_out_with_its_reason(monkeypatch):
    def fail(case):
        raise RuntimeError("no kernel for this\nand more")

    monkeypatch.setattr(run, "VARIANTS", (VARIANTS[0], Variant("broken", "", fail)))
    report = run_ablation(settle(OpBenchSpec(ablation=True, passes=("forward",), **TINY)))
    assert [one.variant for one in report.cases[0].timings] == [BASE]
    assert report.cases[0].skipped[0].reason == "no kernel for this"


def test_a_variant_that_should_agree_and_does_not_ends_the_run(monkeypatch):
    wrong = Variant("wrong", "", lambda case: Layer(case, softmax=True), same_function=True)
    monkeypatch.setattr(run, "VARIANTS", (VARIANTS[0], wrong))
    with pytest.raises(CheckError, match=r"wrong and dcnv4 disagree .* nothing was timed"):
        run_ablation(settle(OpBenchSpec(ablation=True, **TINY)))


def test_the_papers_first_shape_is_the_default():
    bench = settle(OpBenchSpec(ablation=True, device="cpu", passes=("forward",)))
    assert [str(case) for case in bench.cases] == ["4x56x56x128g4 float32 forward"]
    assert bench.rivals == ()


@pytest.fixture
def ablation(capsys, monkeypatch, tmp_path):
    """Run ``bench op --ablation`` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    tiny = ("--shapes", "5x6x32g2", "--batch", "1", "--time", "0.01", "--device", "cpu")

    def call(*args):
        capsys.readouterr()
        code = main(("bench", "op", "--ablation", *tiny, "--pass", "forward", *args))
        return (code, *capsys.readouterr())

    return call


def test_a_table_has_a_row_for_each_variant(ablation, tmp_path):
    code, out, _ = ablation("--csv", "layer.csv")
    assert code == 0
    assert "1x5x6x32g2, float32, forward" in out
    for name in NAMES[:-1]:
        assert any(line.startswith(name) for line in out.splitlines())
    with (tmp_path / "layer.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == NAMES[:-1]
    assert float(rows[0]["ratio_p50"]) == 1.0
    assert rows[0]["torch"]


def test_json_says_what_each_variant_is(ablation):
    told = json.loads(ablation("--json")[1])
    assert [one["name"] for one in told["variants"]] == NAMES
    assert told["cases"][0]["pass"] == "forward"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--rivals", "sdpa"), "--ablation times the layer against itself; leave out --rivals"),
        (("--plot", "a.png"), "--plot draws how rivals compare"),
    ],
)
def test_what_does_not_go_with_it_is_one_line(ablation, args, words):
    code, out, err = ablation(*args)
    assert (code, out) == (2, "")
    assert words in err
