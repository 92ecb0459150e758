"""The demo, end to end: train for seconds, convert and fine-tune with the real verbs, compare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.processes import run_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_converts_its_checkpoint_fine_tunes_and_compares_the_models(tmp_path):
    demo = ROOT / "examples" / "demo.py"
    done = run_python(demo, "--quick", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "training" / "model_best.pth.tar").is_file()
    assert (tmp_path / "out" / "converted" / "plan.json").is_file()
    assert "stages.0.blocks.0.conv_dw" in done.stdout
    accuracies = re.findall(r"[│|]\s+(\d+\.\d)%", done.stdout)
    assert len(accuracies) == 6
    original, _zeroed, _converted, _learned, finetuned, exact = map(float, accuracies)
    assert exact == pytest.approx(original, abs=0.2), "what fits must be kept"
    (after,) = re.findall(r"after recover\s+(\d+\.\d)%", done.stdout)
    assert finetuned == pytest.approx(float(after), abs=0.2), "the command and the demo must agree"
    assert (tmp_path / "out" / "finetuned" / "finetune" / "metrics.jsonl").is_file()
