"""A checkout: what it declares, and that it runs before and after it is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_of_code_is_declared_as_a_package(project):
    found = {
        ".".join(init.parent.relative_to(ROOT).parts) for init in ROOT.glob("dcnify/**/__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found | {
        "dcnify.kernels",
        "dcnify.kernels.tools",
        "dcnify.recipes",
        "dcnify.recipes.ablations",
        "dcnify.recipes.stages",
    }


def test_every_dependency_is_pinned_inside_its_range(project):
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().lower().splitlines()
        if line and not line.startswith("#")
    )
    extras = project["project"]["optional-dependencies"]
    declared = [*project["project"]["dependencies"], *chain(*extras.values())]
    for requirement in map(Requirement, declared):
        if requirement.name != "dcnify":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_editable_install_is_this_checkout(tmp_path):
    code = (
        "import dcnify.kernels, dcnify.recipes\n"
        "print(dcnify.__file__, dcnify.kernels.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    package, kernels = map(Path, done.stdout.splitlines())
    assert package.parent == ROOT / "dcnify"
    assert kernels.parent == ROOT / "kernels"


def test_the_launcher_runs_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_the_launcher_runs_where_nothing_is_installed(bare_environment, bare_copy, tmp_path):
    listed = bare_environment.run("python", bare_copy / "cli.py", "recipe", "ls", cwd=tmp_path)
    assert "convnext" in listed.stdout


def test_the_launcher_hides_no_other_package_called_kernels(bare_environment, bare_copy, tmp_path):
    code = (
        "import importlib.util, runpy, sys\n"
        "runpy.run_path(sys.argv[1])\n"
        "import dcnify.kernels\n"
        "print(dcnify.kernels.__file__)\n"
        "assert importlib.util.find_spec('kernels') is None"
    )
    launcher = bare_copy / "cli.py"
    done = bare_environment.run("python", "-I", "-c", code, launcher, cwd=tmp_path)
    assert Path(done.stdout.strip()) == bare_copy / "kernels" / "__init__.py"
