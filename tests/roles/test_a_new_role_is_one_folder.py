"""A role is added by one folder: `tests/support/toy_role` shows it, in a process of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.processes import run_python

TESTS = Path(__file__).resolve().parents[1]
ROLES = ("depthwise_conv", "attention", "window_attention", "dcnv3", "conv")
OPERATORS = {
    "graph/axis_rules.py": "the operations whose names have it in them",
    "bench/ablation/variants.py": "the operator of that name",
    "verify/operator.py": "the operator of that name",
    "sources/identify/layouts.py": "the names of layers in mmpretrain's checkpoints",
    "sources/identify/internimage_sizes.py": "the core_op of a checkpoint's configuration",
}


@pytest.fixture(scope="module")
def seen() -> dict:
    done = run_python("-m", "support.toy_role_journey", cwd=TESTS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_its_sites_are_found_with_its_own_facts_and_those_of_other_roles_absent(seen):
    (site,) = (one for one in seen["sites"] if one["role"] == "max_pool")
    assert (site["path"], site["role"], site["pixels"]) == ("maxpool", "max_pool", 9)
    assert (site["kernel"], site["heads"], site["prefix_tokens"]) == ([3, 3], None, 0)


@pytest.mark.slow
def test_its_plan_shows_its_label_and_survives_json(seen):
    assert re.search(r"maxpool +max pool of 9 pixels .* DCNv4 3x3 G8", seen["plan"])
    assert seen["same_plan"]


@pytest.mark.slow
def test_a_converted_model_is_saved_and_loaded(seen):
    assert seen["layer"] == "DepthwiseDCNv4"
    assert seen["warnings"] == ["maxpool: an average is not a maximum"]
    assert seen["loaded_alike"]


@pytest.mark.slow
def test_its_facts_and_keys_are_those_of_any_recipe(seen):
    assert "pixels: 9" in seen["written"]
    assert "start: center" in seen["written"]
    assert "max_pool" in seen["schema"]


@pytest.mark.slow
def test_a_recipe_that_does_not_fit_it_is_refused_in_place(seen):
    assert re.match(
        r".*:7:54: swaps.pool.replace.start: only for role max_pool", seen["wrong_role"]
    )
    assert re.match(r".*:6:38: .*'pixel', did you mean 'pixels'", seen["wrong_fact"])
    assert re.match(r".*:8:11: swaps.pool.init: .*paper, transfer, fit$", seen["calibrated"])


def test_outside_its_folder_no_file_names_a_role():
    package = TESTS.parent / "dcnify"
    below = {"ops", "nn", "models"}  # there the words are those of operators and modules
    names = "|".join(ROLES)
    naming = re.compile(rf"""["'`]({names})["'`]|dcnify\.roles\.({names})|depthwise_conv""")
    found = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if naming.search(line)
        and path.relative_to(package).parts[0] not in {"roles", *below}
        and path.relative_to(package).as_posix() not in OPERATORS
    ]
    assert not found
