"""``dcnify report``: pages of artifacts, and what is not one."""

from __future__ import annotations

import dataclasses
import json

import pytest
from support.shown_artifact import shown_artifact

from dcnify.artifact.record import read_artifact
from dcnify.cli import main
from dcnify.report.artifact_page import summary

__all__ = ["shown_artifact"]


@pytest.fixture
def report(capsys, shown_artifact, tmp_path, monkeypatch):
    """Call the verb beside a link to the artifact: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").symlink_to(shown_artifact)

    def run(*args):
        capsys.readouterr()
        code = main(("report", *args))
        return (code, *capsys.readouterr())

    return run


def test_a_page_tells_what_became_of_each_candidate(report, tmp_path):
    assert report("out", "-o", "page.html") == (0, "wrote page.html\n", "")
    page = (tmp_path / "page.html").read_text("utf-8")
    for words in (
        "late: timm:test_convnext",
        "Required of the output",
        "stage 0",
        "0 of 1 swapped",
    ):
        assert words in page
    assert "stage 0 not in [1, 2, 3]" in page
    assert "group_channels: 8" in page
    assert page.count("as written") == 5
    assert len(page) < 300_000


def test_a_page_of_markdown_and_the_terminal_have_the_same_sections(report, tmp_path):
    assert report("out", "-o", "page.md")[0] == 0
    page = (tmp_path / "page.md").read_text("utf-8")
    heads = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert heads == ["Summary", "Network", "Output", "Layers", "Plan", "Recipe", "Origin"]
    code, out, _ = report("out")
    assert code == 0
    assert [line for line in out.splitlines() if line in heads] == heads


def test_json_is_the_page_as_data(report, tmp_path):
    code, out, _ = report("out", "-o", "page.html", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["output"] == "page.html"
    assert told["page"]["sections"][0]["title"] == "Summary"
    assert (tmp_path / "page.html").is_file()


def test_a_file_that_was_edited_since_is_marked(report, shown_artifact, tmp_path):
    (tmp_path / "copy").mkdir()
    for file in shown_artifact.iterdir():
        (tmp_path / "copy" / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "copy" / "report.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert report("copy", "-o", "page.html")[0] == 0
    assert (tmp_path / "page.html").read_text().count("changed since") == 1
    path.write_text(json.dumps({**json.loads(path.read_text()), "sites": [{"path": 3}]}))
    code, _, err = report("copy", "-o", "page.html")
    assert code == 2
    assert "copy: its report is damaged" in err


def test_a_page_is_replaced_and_any_other_file_is_not(report, tmp_path):
    for _ in range(2):
        assert report("out", "-o", "page.html")[0] == 0
    (tmp_path / "page.html").write_text("<p>mine</p>")
    code, out, err = report("out", "-o", "page.html")
    assert (code, out) == (2, "")
    assert "page.html exists; pass --overwrite to replace it" in err
    assert (tmp_path / "page.html").read_text() == "<p>mine</p>"
    assert report("out", "-o", "page.html", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("out", "-o", "page.pdf"), "page.pdf: a page ends in .html or .md"),
        (("out", "-o", "nowhere/page.html"), "there is no folder 'nowhere'"),
        (("oust", "-o", "page.html"), "oust does not exist, did you mean 'out'?"),
        (("empty", "-o", "page.html"), "empty is neither artifact nor run"),
        (("around", "-o", "page.html"), "did you mean 'around/inner'?"),
        (("file.txt", "-o", "page.html"), "file.txt is neither artifact nor run"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_leaves_nothing(report, tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "around").mkdir()
    (tmp_path / "around" / "inner").symlink_to(tmp_path / "out")
    (tmp_path / "file.txt").write_text("no")
    before = sorted(tmp_path.iterdir())
    code, out, err = report(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("tuned", "told", "worse"),
    [
        ({"measure": "agreement", "converted": 0.75, "finetuned": 0.75}, "agreement", False),
        ({"converted": 0.5, "finetuned": 0.25, "original": 0.9}, "accuracy", True),
    ],
)
def test_before_and_after_training_are_of_the_same_images(shown_artifact, tuned, told, worse):
    record = read_artifact(shown_artifact)
    record = dataclasses.replace(record, report={**record.report, "finetune": [tuned]})
    facts, *rest = summary(record)
    said = {fact.name: fact.text for fact in facts.facts}
    assert said[f"{told} before training"] == f"{tuned['converted']:.1%}"
    assert said[f"{told} after training"] == f"{tuned['finetuned']:.1%}"
    assert ("agreement after conversion" in said) is (told == "accuracy")
    assert any("below where it began" in str(one) for one in rest) is worse
