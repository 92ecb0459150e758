"""What ``pip install .`` gives on a machine that has no checkout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def contents(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_the_wheel_carries_the_licence(contents):
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


@pytest.mark.slow
def test_the_wheel_carries_every_built_in_recipe(contents, bare_copy):
    recipes = {
        f"dcnify/{path.relative_to(bare_copy)}" for path in bare_copy.glob("recipes/**/*.yaml")
    }
    assert any("/stages/" in path for path in recipes)
    assert recipes <= set(contents)


@pytest.mark.slow
def test_the_wheel_carries_every_module_of_the_tree(contents, bare_copy):
    tree = {str(path.relative_to(bare_copy)) for path in bare_copy.glob("dcnify/**/*.py")}
    tree |= {f"dcnify/{path.relative_to(bare_copy)}" for path in bare_copy.glob("kernels/**/*.py")}
    assert tree <= set(contents)


@pytest.mark.slow
def test_the_wheel_carries_nothing_but_the_package(contents):
    assert {name.split("/")[0].split("-")[0] for name in contents} == {"dcnify"}


@pytest.mark.slow
def test_a_fresh_environment_imports_the_package_and_its_mapped_folders(installed, tmp_path):
    code = (
        "import dcnify, dcnify.kernels, dcnify.recipes\n"
        "print(dcnify.__file__, dcnify.kernels.__file__, dcnify.recipes.__file__, sep='\\n')"
    )
    files = installed.run("python", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert len(files) == 3
    assert all(Path(file).is_relative_to(installed.folder) for file in files)


@pytest.mark.slow
def test_a_fresh_environment_lists_the_recipes(installed, tmp_path, bare_copy):
    listed = installed.run("dcnify", "recipe", "ls", cwd=tmp_path).stdout
    for path in bare_copy.glob("recipes/*.yaml"):
        assert path.stem in listed
