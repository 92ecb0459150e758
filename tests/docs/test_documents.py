"""What README and docs name exists: links, headings, files, commands, targets, Python names."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest

from dcnify.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
FOLDERS = "|".join(("dcnify", "kernels", "recipes", "tests", "docs", "examples", "studies"))
PLACEHOLDER = re.compile(r"\b(NAME|ROLE|ROOM|GPU-DATE)\b")
ANY_VERB = {"--help", "-h", "--debug", "--version"}


@cache
def blocks(name: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document: (language, text)."""
    text = (ROOT / name).read_text("utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)


@cache
def prose(name: str) -> str:
    return re.sub(r"^```.*?^```", "", (ROOT / name).read_text("utf-8"), flags=re.M | re.S)


@cache
def anchors(path: Path) -> set[str]:
    """The headings of a document as the links that GitHub makes of them."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"(https?|mailto):", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name):
    text = (ROOT / name).read_text("utf-8")
    named = set(re.findall(rf"(?<![\w/.:-])((?:{FOLDERS})/[\w/.-]*\w)", text))
    beside = {path.name for path in ROOT.glob("docs/results/*")}
    missing = [
        one
        for one in sorted(named)
        if not PLACEHOLDER.search(one)
        and not (ROOT / one).exists()
        and Path(one).name not in beside
    ]
    assert missing == []


def commands(name: str) -> list[str]:
    """The shell lines of a document: those of unlabelled blocks, and code in its text."""
    found = []
    for language, text in blocks(name):
        if language in ("", "bash", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                found.append(line.strip().removeprefix("$ ").partition("  #")[0].strip())
    return found + re.findall(r"`([^`\n]+)`", prose(name))


@cache
def options(*verb: str) -> frozenset[str] | None:
    """The options of a verb as its help lists them; None if there is no such verb."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([*verb, "--help"])
    listed = re.findall(r"(?<![\w-])(--?[a-z][\w-]*)", out.getvalue())
    return frozenset(listed) | ANY_VERB if code == 0 else None


@pytest.mark.parametrize("name", NAMES)
def test_every_dcnify_command_has_a_verb_and_options_that_exist(name):
    wrong = []
    for line in commands(name):
        line = re.sub(r"^(python cli\.py|.*-m dcnify) ", "dcnify ", line)
        if not line.startswith("dcnify ") or "|" in line or line.startswith("dcnify."):
            continue
        try:
            words = shlex.split(line)[1:]
        except ValueError:
            continue
        verb = words[:2] if words[:1] in (["ablate"], ["bench"], ["recipe"]) else words[:1]
        if not verb or verb[0].startswith("-") or verb[-1] == "...":
            continue
        known = options(*verb)
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if known is None or given - known:
            wrong.append(line)
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_and_extra_exists(name):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for line in commands(name):
        if found := re.match(r"(?:\w+=\S+ )*make(?: \w+=\S+)*((?: [a-z-]+)+)", line):
            assert set(found[1].split()) <= targets, line
        if found := re.search(r"pip install (?:-e )?'?\.\[([\w,]+)\]", line):
            assert set(found[1].split(",")) <= set(extras), line


PYTHON = [
    pytest.param(name, text, id=f"{name}-{number}")
    for name in NAMES
    for number, (language, text) in enumerate(blocks(name))
    if language == "python"
]


@pytest.mark.parametrize(("name", "text"), PYTHON)
def test_every_name_that_python_takes_from_dcnify_exists(name, text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dcnify"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, one.name) for one in node.names), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("dcnify."):
            found = importlib.import_module("dcnify")
            for part in ast.unparse(node).split(".")[1:]:
                found = getattr(found, part)
