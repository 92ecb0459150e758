"""What the Triton kernels become on real GPUs: no spills, wide accesses, enough warps. No GPU."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from compiled_cases import CHOSEN
from dcnify.kernels import inspect


@pytest.mark.slow
def test_what_is_shipped_compiles_to_what_it_should():
    """One test, so that it is compiled once however many processes the tests have."""
    findings = list(inspect.inspect_all(CHOSEN))
    assert any(found.code for found in findings)
    faulty = [inspect.line_of(found) for found in findings if found.faults]
    assert not faulty, "\n" + "\n".join(faulty)


def test_a_launch_that_spills_or_reads_narrowly_is_found_out():
    machine_code = pytest.importorskip("dcnify.kernels.machine_code")
    case = inspect.Case("forward", 32, "float16", "sm_90")
    launch = inspect.launch_of(case)
    good = machine_code.MachineCode(96, 0, 0, 2000, 0, {"load 16": 24, "store 16": 2})
    assert not list(inspect._faults(case, launch, good, 20))
    spilled = good._replace(spilled=400, moves=200)
    assert "200 of 2000 instructions" in next(inspect._faults(case, launch, spilled, 20))
    narrow = good._replace(accesses={"load 8": 48, "store 8": 4})
    assert len(list(inspect._faults(case, launch, narrow, 20))) == 2
    assert "4 resident warps" in next(inspect._faults(case, launch, good, 4))


@pytest.mark.parametrize(
    ("instruction", "access"),
    [
        ("LDG.E.128", ("load", 16)),
        ("LDG.E.64.CONSTANT", ("load", 8)),
        ("LDG.E.U16", ("load", 2)),
        ("LDG.E", ("load", 4)),
        ("STG.E.U16", ("store", 2)),
        ("REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU", ("add", 16)),
        ("RED.E.ADD.F32.FTZ.RN.STRONG.GPU", ("add", 4)),
        ("LDS.128", ("", 0)),
        ("global_load_dwordx4", ("load", 16)),
        ("global_store_short_d16_hi", ("store", 2)),
        ("global_load_ushort", ("load", 2)),
        ("global_atomic_add_f32", ("add", 4)),
        ("v_fma_f32", ("", 0)),
    ],
)
def test_an_instruction_is_known_by_its_name(instruction, access):
    machine_code = pytest.importorskip("dcnify.kernels.machine_code")
    assert machine_code.access_of(instruction) == access
