"""What a kernel becomes on a GPU: compiled for a target with no such GPU at hand, and read back."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);")
ACCESS = {
    "LDG": "load",
    "STG": "store",
    "RED": "add",
    "REDG": "add",
    "ATOMG": "add",
    "global_load": "load",
    "buffer_load": "load",
    "global_store": "store",
    "buffer_store": "store",
    "global_atomic": "add",
    "buffer_atomic": "add",
}
AMD_BYTES = {
    "ubyte": 1, "ushort": 2, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16,
}  # fmt: skip


NVIDIA_SHARED = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 103: 228, 120: 100}
"""Kilobytes of shared memory per multiprocessor, by compute capability."""
NVIDIA_WARPS = {86: 48, 87: 48, 89: 48, 120: 48}
"""Resident warps per multiprocessor where there may not be 64."""


SPILLS = ("LDL", "STL", "scratch_load", "scratch_store")


class NotHere(Exception):
    """This Triton does not compile for that target."""


class Instruction(NamedTuple):
    name: str
    address: int
    jumps_to: int | None


class MachineCode(NamedTuple):
    """What one kernel became."""

    registers: int
    """Per thread."""
    spilled: int
    """Bytes of memory per thread that registers are parked in."""
    shared: int
    """Bytes of shared memory per program."""
    instructions: int
    """Of one warp along the main path, each loop as often as it runs."""
    moves: int
    """Those of them that store or load spilled registers."""
    accesses: dict[str, int]
    """How many instructions read, write or add to global memory, as in ``{"load 16": 48}``."""


def compile_for(
    kernel: Any,
    target: str,
    pointers: Mapping[str, str],
    constants: Mapping[str, Any],
    warps: int,
) -> Any:
    """``kernel`` compiled for a target such as ``sm_90`` or ``gfx942``.

    It is specialised as a launch specialises it: pointers are multiples of 16 bytes, as PyTorch
    allocates; sizes and strides are any 32-bit numbers.

    Args:
        kernel: a ``triton.jit`` function.
        target: what to compile for.
        pointers: the element type of every argument that is a pointer, as in ``{"value": "fp16"}``.
        constants: the ``constexpr`` arguments.
        warps: of a program.
    """
    signature, attributes, values = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            values[(place,)] = constants[name]
        elif name in pointers:
            signature[name] = "*" + pointers[name]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
    source = ASTSource(kernel, signature, constexprs=values, attrs=attributes)
    gpu = gpu_target(target)
    if not any(one.compiler.supports_target(gpu) for one in backends.values()):
        raise NotHere(f"this Triton does not compile for {target}")
    return triton.compile(source, target=gpu, options={"num_warps": warps})


def gpu_target(target: str) -> GPUTarget:
    """Triton's name for a target; ``ValueError`` where it has none."""
    if found := re.fullmatch(r"sm_(\d+)", target):
        return GPUTarget("cuda", int(found[1]), 32)
    if re.fullmatch(r"gfx9\w+", target):
        return GPUTarget("hip", target, 64)
    if re.fullmatch(r"gfx1\w+", target):
        return GPUTarget("hip", target, 32)
    raise ValueError(f"{target} is not a target such as sm_90 or gfx942")


def read(compiled: Any, trips: int) -> MachineCode:
    """Registers, spills and instructions of what `compile_for` gave.

    ``trips`` is how often a loop runs that reads the value; other loops are taken to be the path
    that is rarely needed, and are left out.
    """
    if "cubin" in compiled.asm:
        registers, spilled, code = _from_cubin(compiled.asm["cubin"])
    else:
        registers, spilled, code = _from_amdgcn(compiled.asm["amdgcn"])
    accesses = Counter(
        f"{kind} {size}" for kind, size in map(access_of, (one.name for one in code)) if kind
    )
    return MachineCode(
        registers,
        spilled,
        compiled.metadata.shared,
        *_along_the_main_path(code, trips),
        dict(sorted(accesses.items())),
    )


def resident_warps(target: str, code: MachineCode, warps: int) -> int:
    """Warps that fit on one multiprocessor at a time, in programs of ``warps`` each."""
    gpu = gpu_target(target)
    if gpu.backend == "hip":
        # Four SIMDs of 512 registers and 8 waves each; they share 64 KB of local memory.
        waves = 4 * min(8, 512 // _up(code.registers, 8))
        most = min(waves // warps, 64 * 1024 // code.shared if code.shared else waves)
        return most * warps
    number = int(gpu.arch)
    shared = NVIDIA_SHARED.get(number, 100) * 1024
    by_registers = 64 * 1024 // (32 * _up(code.registers, 8)) // 4 * 4
    programs = min(by_registers, NVIDIA_WARPS.get(number, 64)) // warps
    programs = min(programs, 32, shared // (code.shared + 1024))
    return programs * warps


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def access_of(name: str) -> tuple[str, int]:
    """Kind and bytes per thread of an instruction; the kind is empty if it is not an access."""
    parts = name.split(".")
    if kind := ACCESS.get(parts[0], ""):
        if "128" in parts or "F32x4" in parts:
            return kind, 16
        if "64" in parts or "F32x2" in parts:
            return kind, 8
        if parts[-1] in ("U16", "S16") or "U16" in parts:
            return kind, 2
        return kind, 1 if "U8" in parts else 4
    where, _, rest = name.partition("_")
    action, _, size = rest.partition("_")
    if kind := ACCESS.get(f"{where}_{action}", ""):
        size = size.removeprefix("lds_").removesuffix("_d16_hi").removesuffix("_d16")
        return kind, AMD_BYTES.get(size.removeprefix("d16_").removeprefix("hi_"), 4)
    return "", 0


def _from_cubin(cubin: bytes) -> tuple[int, int, list[Instruction]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _cuobjdump("-res-usage", file)
        listing = _cuobjdump("-sass", file)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump tells no registers: {usage[-200:]}")
    code = []
    for address, name, operands in LINE.findall(listing):
        to = re.search(r"0x([0-9a-f]+)\s*$", operands) if name.startswith("BRA") else None
        code.append(Instruction(name, int(address, 16), int(to[1], 16) if to else None))
    return int(found[1]), int(found[2]), code


def _cuobjdump(what: str, file: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, what, file], capture_output=True, text=True, check=True).stdout


def _from_amdgcn(text: str) -> tuple[int, int, list[Instruction]]:
    registers, scratch = (
        int(re.findall(rf"\.{name}:\s+(\d+)", text)[0])
        for name in ("vgpr_count", "private_segment_fixed_size")
    )
    labels: dict[str, int] = {}
    lines: list[tuple[str, str]] = []
    for line in text.splitlines():
        if found := re.match(r"(\.LBB\w+):", line):
            labels[found[1]] = len(lines)
        elif found := re.match(r"\s+([a-z]\w+)\s*(.*)", line):
            lines.append((found[1], found[2]))
        elif line.startswith(".Lfunc_end"):
            break
    code = []
    for address, (name, operands) in enumerate(lines):
        to = labels.get(operands.split()[0]) if "branch" in name else None
        code.append(Instruction(name, address, to))
    return registers, scratch, code


def _along_the_main_path(code: list[Instruction], trips: int) -> tuple[int, int]:
    """Instructions of one warp where no loop but those that read the value runs, and its spills."""
    last = max((place for place, one in enumerate(code) if one.name != "NOP"), default=-1)
    times = [1] * (last + 1)
    widest = max((size for kind, size in map(_access, code) if kind == "load"), default=0)
    for first, end in _loops(code):
        body = code[first : end + 1]
        reads_value = any(_access(one) == ("load", widest) for one in body)
        times[first : end + 1] = [trips if reads_value else 0] * len(body)
    moves = sum(
        often for often, one in zip(times, code, strict=False) if one.name.startswith(SPILLS)
    )
    return sum(times), moves


def _access(one: Instruction) -> tuple[str, int]:
    return access_of(one.name)


def _loops(code: list[Instruction]) -> Iterator[tuple[int, int]]:
    """Places of the first and last instruction of each loop: what a jump backwards spans."""
    places = {one.address: place for place, one in enumerate(code)}
    for place, one in enumerate(code):
        if one.jumps_to is not None and one.jumps_to <= one.address:
            yield places.get(one.jumps_to, 0), place
