"""dcnify diff: what it prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json

import pytest
from support.shown_artifact import shown_artifact

from dcnify.cli import main

__all__ = ["shown_artifact"]


@pytest.fixture
def diff(capsys, shown_artifact, tmp_path, monkeypatch):
    """Call the verb beside a link to the artifact: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").symlink_to(shown_artifact)

    def run(*args):
        capsys.readouterr()
        code = main(("diff", *args))
        return (code, *capsys.readouterr())

    return run


def test_recipes_that_differ_are_a_table_and_no_failure(diff):
    code, out, err = diff("convnext", "convnext-late")
    assert (code, err) == (0, "")
    assert "swaps.0.select.stages" in out
    assert "[2, 3]" in out


@pytest.mark.parametrize(("other", "expected"), [("convnext", 0), ("convnext-late", 1)])
def test_the_exit_code_says_whether_they_differ_if_asked(diff, other, expected):
    assert diff("convnext", other, "--exit-code", "-q")[0] == expected


def test_json_holds_all_of_it(diff):
    told = json.loads(diff("out", "out", "--json")[1])
    assert (told["same"], told["kind"]) == (True, "artifact")
    assert {one["layer"] for one in told["weights"]} > {"stages.1.blocks.0.conv_dw"}


def test_a_page_is_written(diff, tmp_path):
    code, out, _ = diff("vit", "convnext", "-o", "diff.md")
    assert (code, out) == (0, "wrote diff.md\n")
    assert (tmp_path / "diff.md").read_text("utf-8").startswith("# Two recipes")
    assert diff("vit", "vit", "-o", "diff.md")[0] == 0  # a page of dcnify's is replaced
    assert "The same recipe" in (tmp_path / "diff.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("out", "convnext"), "out is an artifact, convnext a recipe: give two of a kind"),
        (("convnext", "out"), "the artifact's recipe is out/recipe.yaml"),
        (("around", "out"), "neither an artifact nor a recipe; did you mean 'around/out'?"),
        (("empty", "out"), "empty is neither an artifact nor a recipe"),
        (("model.pt", "out"), "model.pt is a weight file, not an artifact; convert it first"),
        (("ou/", "out"), "ou/ does not exist, did you mean 'out'?"),
        (("convnex", "convnext"), "no recipe 'convnex', did you mean 'convnext'?"),
        (("convnext", "vit", "-o", "page.pdf"), "page.pdf: a page ends in .html or .md"),
    ],
)
def test_what_cannot_be_compared_is_one_line(diff, shown_artifact, tmp_path, args, words):
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "out").symlink_to(shown_artifact)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.pt").symlink_to(shown_artifact.parent / "model.pt")
    code, out, err = diff(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
