"""dcnify ablate: what a person types, reads, and gets as an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dcnify.ablate.state.record import STATE
from dcnify.cli import main

SOURCE = ("--source", "python:support.models:tiny_convnext", "--input-size", "32")
SWEEP = """
version: 1
name: small
recipe: convnext
factors:
  swaps.dw7.replace.kernel_size: [3, 1]
measure: [fidelity, flops]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablate")
    (folder / "small.yaml").write_text(SWEEP)
    assert (
        main(["ablate", "run", str(folder / "small.yaml"), *SOURCE, "-o", str(folder / "x")]) == 0
    )
    return folder


def call(capsys, *args):
    """Exit code, stdout and stderr of ``dcnify ablate ...``."""
    code = main(["ablate", *map(str, args)])
    return code, *capsys.readouterr()


def test_status_and_report_say_what_is_there(folder, capsys):
    code, out, _ = call(capsys, "status", folder / "x")
    assert (code, out) == (0, "small: 2 trials: 2 done\n")
    code, out, _ = call(capsys, "report", folder / "x", "--json")
    told = json.loads(out)
    assert code == 0
    assert [one["swaps.dw7.replace.kernel_size"] for one in told["points"]] == [3, 1]
    assert Path(told["best"]).is_file()


def test_a_worker_finds_nothing_left_to_do(folder, capsys):
    code, out, _ = call(capsys, "worker", folder / "x")
    assert (code, out) == (0, "0 trials ended meanwhile\n")


def test_a_worker_that_knows_the_storage_alone_leaves_no_folder(folder, capsys, monkeypatch):
    (at := folder / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(at))
    state = folder / "x" / STATE
    code, out, _ = call(capsys, "worker", "--storage", f"sqlite:///{state}", "--json")
    assert (code, json.loads(out)["folder"]) == (0, None)
    assert list(at.iterdir()) == []


def test_a_page_of_the_folder_is_made_by_report(folder, capsys):
    assert main(["report", str(folder / "x"), "-o", str(folder / "page.html")]) == 0
    assert "Ablation small" in (folder / "page.html").read_text()


def test_the_sweeps_that_ship_are_listed(capsys):
    code, out, _ = call(capsys, "ls")
    assert code == 0
    assert "cluttered-digits" in out
    assert "softmax" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "stagess", *SOURCE, "-o", "x"), "did you mean 'stages'"),
        (("run", "stages", *SOURCE, "-o", "x", "--jobs", "0"), "--jobs"),
        (("run", "stages", *SOURCE, "-o", "x", "--storage", "nonsense"), "URL of a database"),
        (("worker", "nowhere"), "holds no ablation"),
        (("worker",), "--storage"),
        (("status", "nowhere"), "holds no ablation"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_share_the_trials(tmp_path):
    text = SWEEP.replace("[3, 1]", "[3, 1, 5]")
    (tmp_path / "small.yaml").write_text(text)
    command = ["ablate", "run", "small.yaml", *SOURCE, "-o", "x", "--jobs", "2"]
    command += ["--measure", "latency"]
    support = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "dcnify", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": support},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "latency is truest with --jobs 1" in done.stdout + done.stderr
    found = [json.loads(one.read_text()) for one in (tmp_path / "x/trials").glob("*.json")]
    assert len(found) == 3
    assert {one["state"] for one in found} == {"done"}
    assert sorted(one.name for one in (tmp_path / "x/workers").iterdir()) == ["0.log", "1.log"]
