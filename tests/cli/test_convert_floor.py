"""``convert`` below the floor that a recipe sets: exit code 3, and nothing is written."""

from __future__ import annotations

import json

import pytest
from support import decided

from dcnify.cli import main

SOURCE = "python:support.decided:decided"


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ruin.yaml").write_text(decided.text("{agreement: 0.99}"))

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        command = ("convert", SOURCE, "-r", "ruin.yaml", "-o", "out", "--input-size", "32")
        code = main((*command, *args))
        return (code, *capsys.readouterr())

    return run


def test_a_ruin_is_exit_code_3_and_nothing_is_written(dcnify, tmp_path):
    code, out, err = dcnify()
    assert code == 3
    assert "ruin.yaml:8:10: require not met: agreement" in err
    assert "--images DIR" in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_says_warn_is_carried_out(dcnify, tmp_path):
    code, out, err = dcnify("--set", "require.on_violation=warn", "--json")
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["require"]["met"] is False
    assert report["require"]["asked"]["agreement"] == 0.99
    assert report["output"]["kl"] > 0
    assert report["output"] == json.loads(out)["report"]["output"]
    assert any("require not met" in text for text in report["warnings"])


def test_a_revert_is_told_and_written(dcnify, tmp_path):
    code, out, err = dcnify("--set", "require.on_violation=revert")
    assert code == 0, err
    assert "original (reverted)" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["output"]["top1_agreement"] >= 0.99
