"""The hardware and the versions that a measurement depends on."""

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dcnify._version import __version__


@dataclass(frozen=True)
class Machine:
    """Device, driver and versions. What is not there is an empty text."""

    device: str
    device_name: str
    driver: str
    cuda: str
    threads: int
    torch: str
    triton: str
    numba: str
    dcnify: str
    python: str

    @property
    def line(self) -> str:
        """``AMD EPYC, 2 threads, torch 2.15.0``; threads only of a CPU."""
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.device_name}{threads * (self.device == 'cpu')}, torch {self.torch}"


def describe(device: torch.device) -> Machine:
    """The machine as seen from a device."""
    on_cuda = device.type == "cuda"
    return Machine(
        device=str(device),
        device_name=torch.cuda.get_device_name(device) if on_cuda else _cpu_name(),
        driver=_driver() if on_cuda else "",
        cuda=(torch.version.cuda or "") if on_cuda else "",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        triton=_version("triton"),
        numba=_version("numba"),
        dcnify=__version__,
        python=platform.python_version(),
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names and names[0]) or platform.processor() or platform.machine()


def _driver() -> str:
    """The version of NVIDIA's driver, which torch does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
