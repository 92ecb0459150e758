"""Compile every shipped launch for real GPUs, and check what became of it. No GPU is needed.

python -m dcnify.kernels.tools.inspect
python -m dcnify.kernels.tools.inspect --target sm_90 --dtype float16 --kernel forward --width 32
python -m dcnify.kernels.tools.inspect --record docs/results/compiled.csv
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dcnify.kernels.plan import ITEMSIZE, Geometry, KernelCall, Launch, plan_backward, plan_forward
from dcnify.kernels.tools.findings import Case, Finding, rows_of
from dcnify.kernels.tools.recorded import Entry, read_record, source_of, write_record
from dcnify.kernels.tools.table import HEAD, as_data, line_of

if TYPE_CHECKING:  # Triton is imported by the processes that compile, and only by them.
    from dcnify.kernels.tools.machine_code import MachineCode

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
KNOWN_TARGETS = ("sm_75", "sm_86", "sm_89", "sm_120", "gfx90a", "gfx950", *TARGETS)
DTYPES = ("float16", "bfloat16", "float32")
WIDTHS = (8, 12, 16, 24, 32, 48, 64, 128)
SIZE = 56
GROUPS = 4
BATCH = 64

PLAIN = Geometry(3, 3, 1, 1, 1, 1, 1, 1, False, False)
STRIDED = PLAIN._replace(stride_h=2, stride_w=2)
KINDS = {
    "forward": PLAIN,
    "forward softmax": PLAIN._replace(softmax=True),
    "forward autocast": PLAIN,
    "backward": PLAIN,
    "backward softmax": PLAIN._replace(softmax=True),
    "backward autocast": PLAIN,
    "backward scatter": STRIDED,
    "backward scatter 7x7": PLAIN._replace(kernel_h=7, kernel_w=7, padding_h=3, padding_w=3),
    "backward value": PLAIN,
    "backward value 5x5": PLAIN._replace(kernel_h=5, kernel_w=5, padding_h=2, padding_w=2),
}
"""What is compiled, by the geometry that takes it there: strided and large kernels scatter. Under
autocast offsets and weights stay float32 where the value has 16 bits."""
WARPS = 8
"""Resident warps wanted, at least: two for each scheduler, each with a dozen reads in flight."""
SPILLS = 0.01
"""Share of the instructions along the main path that may move spilled registers. At a threshold
of occupancy the compiler parks one or two that a loop does not need, and is right to."""
TRITON_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def cases(
    kinds: Iterable[str] = KINDS,
    widths: Iterable[int] = WIDTHS,
    dtypes: Iterable[str] = DTYPES,
    targets: Iterable[str] = TARGETS,
) -> Iterator[Case]:
    """Everything that is shipped, or the part of it that is asked for."""
    for target in targets:
        for kind in kinds:
            for width in widths:
                for dtype in dtypes:
                    if not ("autocast" in kind and dtype == "float32"):
                        yield Case(kind, width, dtype, target)


def launch_of(case: Case) -> Launch | None:
    """The launch that a call of this case gets, if it is of this kind at all."""
    geometry = KINDS[case.kind]
    out = SIZE // geometry.stride_h
    call = KernelCall(
        batch=BATCH,
        size=(SIZE, SIZE),
        out_size=(out, out),
        groups=GROUPS,
        group_channels=case.width,
        dtype=case.dtype,
        packed=True,
        paired=ITEMSIZE[case.dtype] == 2,
        wide=False,
        target=case.target,
    )
    if case.kind.startswith("forward"):
        return plan_forward(call, geometry)
    plan = plan_backward(call, geometry, 1.0)
    if case.kind.startswith("backward value"):
        return plan.value
    return plan.points


def inspect(case: Case) -> Finding:
    """Compile one case and judge it. Imports Triton; not for where it interprets."""
    from dcnify.kernels.backward import dcnv4_backward
    from dcnify.kernels.backward_value import dcnv4_backward_value
    from dcnify.kernels.forward import dcnv4_forward
    from dcnify.kernels.tools import machine_code

    launch = launch_of(case)
    if launch is None:
        return Finding(case, None, None, 0, 0.0, (), "no launch of this kind")
    kernel = dcnv4_forward if case.kind.startswith("forward") else dcnv4_backward
    if case.kind.startswith("backward value"):
        kernel = dcnv4_backward_value
    element = TRITON_TYPES[case.dtype]
    point = "fp32" if "autocast" in case.kind else element
    pointers = dict.fromkeys(("value", "grad_output", "output"), element)
    pointers |= dict.fromkeys(("offset", "weight", "grad_offset", "grad_weight"), point)
    pointers["grad_value"] = "fp32" if launch.constants.get("SCATTER", True) else element
    try:
        compiled = machine_code.compile_for(
            kernel, case.target, pointers, launch.constants, launch.warps
        )
    except machine_code.NotHere as why:
        return Finding(case, launch, None, 0, 0.0, (), str(why))
    return judged(case, launch, machine_code.read(compiled, trips=KINDS[case.kind].kernel_w))


def judged(case: Case, launch: Launch, code: MachineCode) -> Finding:
    """What is to be said about a launch that became ``code``."""
    from dcnify.kernels.tools import machine_code

    warps = machine_code.resident_warps(case.target, code, launch.warps)
    threads = machine_code.gpu_target(case.target).warp_size
    per_row = code.instructions * launch.warps * (threads / 32) / rows_of(launch)
    return Finding(case, launch, code, warps, per_row, tuple(_faults(case, launch, code, warps)))


def _faults(case: Case, launch: Launch, code: MachineCode, warps: int) -> Iterator[str]:
    if code.moves > SPILLS * code.instructions:
        yield f"{code.moves} of {code.instructions} instructions move spilled registers"
    if warps < WARPS:
        yield f"{warps} resident warps, {WARPS} wanted"
    if case.kind.startswith("backward value"):
        return
    chunks = -(-case.width // launch.constants["BLOCK_D"])
    wanted = _bytes_at_once(case, launch)
    # Four corners of each point, points of a column at least, every chunk of their channels.
    least = 4 * KINDS[case.kind].kernel_h * chunks
    if code.accesses.get(f"load {wanted}", 0) < least:
        yield f"fewer than {least} loads of {wanted} bytes"
    if case.kind.startswith("forward") and code.accesses.get(f"store {wanted}", 0) < chunks:
        yield f"fewer than {chunks} stores of {wanted} bytes"
    adds = 16 if takes_four_at_once(case.target) else 4
    if launch.constants.get("SCATTER") and code.accesses.get(f"add {adds}", 0) < least:
        yield f"fewer than {least} additions of {adds} bytes"


def _bytes_at_once(case: Case, launch: Launch) -> int:
    """Bytes a thread should read at once: the kernel that scatters has four channels to a thread.

    Rows of 12 16-bit channels lie 24 bytes apart, and 8 is what their alignment allows.
    """
    itemsize = ITEMSIZE[case.dtype]
    most = 4 * itemsize if launch.constants.get("SCATTER") else 16
    return min(math.gcd(case.width * itemsize, 16), launch.constants["BLOCK_D"] * itemsize, most)


def takes_four_at_once(target: str) -> bool:
    """Whether one instruction adds four numbers to memory."""
    return target.startswith("sm_") and int(target[3:]) >= 90


def inspect_all(wanted: Sequence[Case], jobs: int = 2) -> Iterator[Finding]:
    """The findings, in order, from ``jobs`` processes. Triton compiles in those, not here."""
    # Triton reads this when it is imported; what is interpreted cannot be compiled.
    interpreted = os.environ.pop("TRITON_INTERPRET", None)
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
            yield from pool.map(inspect, wanted)
    finally:
        if interpreted is not None:
            os.environ["TRITON_INTERPRET"] = interpreted


def record(file: Path, wanted: Sequence[Case], jobs: int = 2) -> Iterator[Finding]:
    """Findings for ``wanted``, compiled only where ``file`` does not have them; then in ``file``.

    A case that has no launch, or is of a target that this Triton does not know, gets no row, and
    what is no longer shipped loses its own.
    """
    known, version = read_record(file), metadata.version("triton")
    source = {case: source_of(case.kind, launch) for case in wanted if (launch := launch_of(case))}
    stale = [
        case for case in source if case not in known or known[case][1:3] != (version, source[case])
    ]
    try:
        for found in inspect_all(stale, jobs):
            if found.code is not None:
                known[found.case] = Entry(found.case, version, source[found.case], found.code)
            yield found
    finally:  # also when stopped half way: what was compiled need not be compiled again
        write_record(file, (known[case] for case in cases() if case in known))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, not {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything is wrong."""
    parser = _Parser("python -m dcnify.kernels.tools.inspect", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--target", nargs="+", default=TARGETS, choices=KNOWN_TARGETS, metavar="TARGET")
    add("--kernel", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KERNEL")
    add("--width", nargs="+", default=WIDTHS, type=_at_least_one, help="channels of a group")
    add("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    add("--jobs", default=2, type=_at_least_one, help="processes that compile at the same time")
    add("--json", action="store_true", help="print one JSON object per line")
    add("--record", type=Path, metavar="CSV", help="compile what it lacks, and write it there")
    given = parser.parse_args(arguments)
    if given.record:
        try:
            read_record(given.record)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        if not given.record.parent.is_dir():
            parser.error(f"--record: there is no folder {given.record.parent}")
    wanted = list(cases(given.kernel, given.width, given.dtype, given.target))
    if not given.json:
        print(HEAD)
    count = bad = 0
    if given.record:
        findings = record(given.record, wanted, given.jobs)
    else:
        findings = inspect_all(wanted, given.jobs)
    for found in findings:
        print(json.dumps(as_data(found)) if given.json else line_of(found), flush=True)
        count += 1
        bad += bool(found.faults)
    print(f"{count} inspected, {bad} with faults", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
