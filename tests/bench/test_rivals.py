"""What the operator is timed against computes the same, where it claims to."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from dcnify.bench import agreement, peers
from dcnify.bench.agreement import error_against_ours
from dcnify.bench.case import Case, make_inputs
from dcnify.bench.rivals import BUILT_IN, OURS, Prepared, Rival, Unavailable
from dcnify.bench.shapes import Shape
from dcnify.errors import CheckError

RIVALS = {rival.name: rival for rival in BUILT_IN}
SAME = [rival.name for rival in BUILT_IN if rival.same_function]

ORIGINAL = """
from dcnify import ops

class DCNv4Function:
    @staticmethod
    def apply(value, offset_mask, kh, kw, sh, sw, ph, pw, dh, dw, groups, channels, scale, step,
              remove_center):
        assert groups * channels == value.shape[3] and step == 256
        return ops.reference.dcnv4(
            value, offset_mask, kernel_size=(kh, kw), stride=(sh, sw), padding=(ph, pw),
            dilation=(dh, dw), groups=groups, offset_scale=scale, remove_center=bool(remove_center))
"""


def case(**changes) -> Case:
    plain = Case(Shape(6, 7, 32, 2), 2, torch.float32, torch.device("cpu"), backward=True)
    return replace(plain, **changes)


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("name", SAME)
def test_output_and_gradients_are_those_of_the_operator(name, spread):
    asked = case(dtype=torch.float64, offset_spread=spread)
    assert error_against_ours(RIVALS[name], asked) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backward", [False, True])
def test_grid_sample_agrees_in_every_dtype(dtype, backward):
    asked = case(dtype=dtype, backward=backward)
    assert error_against_ours(RIVALS["grid_sample"], asked) < agreement.TOLERANCE[dtype] / 2


def test_far_offsets_in_bfloat16_are_no_disagreement():
    asked = case(dtype=torch.bfloat16, offset_spread=20.0, shape=Shape(24, 24, 16, 2))
    assert error_against_ours(RIVALS["grid_sample"], asked) < 0.02


def test_a_wrong_answer_of_a_rival_that_must_agree_ends_the_run():
    def halved(inputs):
        right = OURS.prepare(inputs)
        return Prepared(right.leaves, lambda *leaves: right.forward(*leaves) / 2)

    with pytest.raises(CheckError, match="half and dcnify disagree at 2x6x7x32g2 float32"):
        error_against_ours(Rival("half", "", halved, must_agree=frozenset({torch.float32})), case())
    assert error_against_ours(Rival("half", "", halved), case()) == pytest.approx(0.5)


def test_not_a_number_is_a_wrong_answer():
    def broken(inputs):
        right = OURS.prepare(inputs)
        return Prepared(right.leaves, lambda *leaves: right.forward(*leaves) * float("nan"))

    assert not agreement.agrees(error_against_ours(Rival("nan", "", broken), case()), case())


def test_inputs_are_random_and_repeat_with_the_seed():
    one, same, other = make_inputs(case()), make_inputs(case()), make_inputs(case(seed=1))
    assert torch.equal(one.offset_mask, same.offset_mask)
    assert not torch.equal(one.value, other.value)
    assert (one.value == 0).sum() == 0
    assert one.offset_mask.shape[3] == 56, "3·G·K = 54, padded as DCNv4's module does"


def test_the_floor_counts_each_tensor_once():
    forward, both = case(backward=False).floor_bytes, case().floor_bytes
    inputs = make_inputs(case())
    value, packed = (t.numel() * t.element_size() for t in (inputs.value, inputs.offset_mask))
    assert forward == 2 * value + packed
    assert both == forward + 3 * value + 2 * packed


def test_attention_over_a_detectors_image_is_not_attempted_on_a_cpu():
    with pytest.raises(Unavailable, match="8,192 tokens"):
        RIVALS["sdpa"].prepare(make_inputs(case(shape=Shape(100, 160, 4, 1), batch=1)))


@pytest.fixture
def original(tmp_path, monkeypatch):
    """Something that calls itself DCNv4 and takes the original's arguments."""
    (tmp_path / "DCNv4").mkdir()
    (tmp_path / "DCNv4" / "functions.py").write_text(ORIGINAL)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "DCNv4"
    for name in [name for name in sys.modules if name.split(".")[0] == "DCNv4"]:
        del sys.modules[name]


def test_a_package_that_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert all(peer.missing for peer in peers.PEERS)
    assert not any(rival.missing for rival in BUILT_IN)


def test_the_original_is_called_with_its_own_arguments(original, monkeypatch):
    asked = case(shape=Shape(5, 6, 32, 2))
    peer = peers.PEERS[0]
    assert not peer.missing
    with pytest.raises(Unavailable, match="CUDA"):
        error_against_ours(peer, asked)
    monkeypatch.setattr(peers, "_check", lambda case: None)
    assert error_against_ours(peer, asked) < 1e-5


def test_a_package_that_cannot_be_imported_says_why(original, monkeypatch):
    (original / "functions.py").write_text("raise ImportError('undefined symbol: abc')")
    monkeypatch.setattr(peers, "_check", lambda case: None)
    with pytest.raises(Unavailable, match="undefined symbol"):
        peers.PEERS[0].prepare(make_inputs(case()))
