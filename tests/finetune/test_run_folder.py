"""The folder of a fine-tuning."""

from __future__ import annotations

import json

from dcnify.finetune.run_folder import begin


def test_a_run_that_is_resumed_clears_what_a_killed_one_was_writing(tmp_path):
    begin(tmp_path, {"data": 1}, resume=False)
    folder = tmp_path / "finetune"
    (folder / ".best.1234.safetensors").write_text("half")
    (folder / "metrics.jsonl").write_text("{}\n")
    begin(tmp_path, {"data": 2}, resume=True)
    assert {one.name for one in folder.iterdir()} == {"metrics.jsonl", "run.json"}
    assert json.loads((folder / "run.json").read_text()) == {"data": 2}
    begin(tmp_path, {"data": 3}, resume=False)
    assert {one.name for one in folder.iterdir()} == {"run.json"}
