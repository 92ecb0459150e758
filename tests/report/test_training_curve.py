"""The curve of a training is drawn from whatever its metrics hold."""

from __future__ import annotations

import json

import pytest

from dcnify.report import training_curve, write_training_curve

LINES = [
    {"kind": "validation", "stage": "original", "step": 0, "accuracy": 0.9},
    {"kind": "validation", "stage": "converted", "step": 0, "accuracy": 0.5},
    {"kind": "train", "stage": "align", "step": 10, "loss": 0.4},
    {"kind": "train", "stage": "align", "step": 15, "loss": 0.3},
    {"kind": "validation", "stage": "align", "step": 15, "accuracy": 0.7},
    {"kind": "train", "stage": "recover", "step": 10, "loss": 0.2},
    {"kind": "validation", "stage": "recover", "step": 10, "accuracy": 0.85},
]


def drawn(tmp_path, text):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(text)
    write_training_curve(metrics, tmp_path / "curve.png")
    return (tmp_path / "curve.png").read_bytes()


def lines(*some):
    return "".join(json.dumps(one) + "\n" for one in some)


def test_stages_follow_each_other_in_steps():
    starts = training_curve._starts(LINES)
    assert starts == {"original": 0, "converted": 0, "align": 0, "recover": 15}


def test_a_training_is_drawn(tmp_path):
    assert drawn(tmp_path, lines(*LINES)).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json\n[1, 2]\n" + lines({"kind": "train"}, {"stage": 3}),
        lines(*LINES) + '{"kind": "train", "stage": "recover", "st',  # killed while it wrote
        lines({"kind": "train", "stage": "a", "step": 1, "loss": float("nan")}),
        lines({"kind": "train", "stage": "a", "step": 1, "loss": -1.0}),  # has no logarithm
        lines({"kind": "train", "stage": "a", "step": "one", "loss": 1.0}),
    ],
    ids=["empty", "foreign", "torn", "nan", "negative", "word"],
)
def test_lines_of_another_form_are_left_out(text, tmp_path):
    assert drawn(tmp_path, text).startswith(b"\x89PNG")
