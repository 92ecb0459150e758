"""Environments to install into. Heavy packages are borrowed from the running environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment; programs in it see neither this checkout nor our PYTHONPATH."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment and insist that it succeeds."""
        program = self.folder / "bin" / str(command[0])
        done = subprocess.run(
            [program, *map(str, command[1:])],
            cwd=cwd,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
        return done


def new_environment(folder: Path) -> Environment:
    """An environment that can import torch and the rest, but not dcnify.

    A ``.pth`` line adds the running environment's packages. The ``.pth`` files over there are not
    read again, so an editable install of dcnify stays invisible.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(paths["purelib"], "borrowed.pth").write_text("\n".join(sorted(here)) + "\n")
    return Environment(folder)


@pytest.fixture(scope="session")
def bare_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: building from it leaves nothing behind in the real one."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    ignore = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", "*.egg-info", "build", "dist", "*-out", ".*_cache"
    )
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """dcnify is not installed here."""
    return new_environment(tmp_path_factory.mktemp("bare") / "venv")


@pytest.fixture(scope="session")
def wheel(bare_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``pip install .`` would install."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(bare_copy, source)
    target = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(target)]
    done = subprocess.run([*pip, *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel in it."""
    environment = new_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    install = ["--python", str(environment.python), "install", "--no-deps", "--no-index"]
    done = subprocess.run([*pip, *install, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return environment
