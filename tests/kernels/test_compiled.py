"""What the Triton kernels become on real GPUs: no spills, wide accesses, enough warps. No GPU."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("triton")

from dcnify.kernels.tools import inspect, recorded
from dcnify.kernels.tools.recorded import read_record, source_of
from support.compiled_cases import CHOSEN

RECORD = Path(__file__).parents[2] / "docs/results/compiled.csv"


@pytest.mark.slow
def test_what_is_shipped_compiles_to_what_it_should():
    """One test, so that it is compiled once however many processes the tests have."""
    findings = list(inspect.inspect_all(CHOSEN))
    assert any(found.code for found in findings)
    faulty = [inspect.line_of(found) for found in findings if found.faults]
    assert not faulty, "\n" + "\n".join(faulty)
    version, known = metadata.version("triton"), read_record(RECORD)
    same = {one.case: one for one in known.values() if one.triton == version}
    for found in findings:
        if found.code and (entry := same.get(tuple(found.case))):
            assert entry.code == tuple(found.code), found.case


def test_every_shipped_launch_has_been_compiled_as_it_is_now_and_is_sound():
    machine_code = pytest.importorskip("dcnify.kernels.tools.machine_code")
    known = read_record(RECORD)
    again = "python -m dcnify.kernels.tools.inspect --record docs/results/compiled.csv"
    shipped = {case: launch for case in inspect.cases() if (launch := inspect.launch_of(case))}
    assert known.keys() == shipped.keys(), again
    for case, launch in shipped.items():
        assert known[case].source == source_of(case.kind, launch), f"{case} has changed: {again}"
        code = machine_code.MachineCode(*known[case].code)
        assert not inspect.judged(case, launch, code).faults


def test_a_record_is_kept_up_with_what_changes(tmp_path, monkeypatch):
    machine_code = pytest.importorskip("dcnify.kernels.tools.machine_code")
    kept, changed = inspect.cases(["forward"], [16, 32], ["float16"], ["sm_90"])
    compiled = []

    def compile_all(wanted, jobs):
        compiled.append(list(wanted))
        for case in wanted:
            code = machine_code.MachineCode(96, 0, 0, 2000, 0, {"load 16": 24, "store 16": 2})
            yield inspect.judged(case, inspect.launch_of(case), code)

    monkeypatch.setattr(inspect, "inspect_all", compile_all)
    file = tmp_path / "record.csv"
    list(inspect.record(file, [kept, changed]))
    assert read_record(file).keys() == {kept, changed}
    assert read_record(file)[kept].code == (96, 0, 0, 2000, 0, {"load 16": 24, "store 16": 2})
    file.write_text(file.read_text().replace(read_record(file)[changed].source, "0" * 12))
    list(inspect.record(file, [kept, changed]))
    assert compiled == [[kept, changed], [changed]]


@pytest.mark.parametrize("kind", ["forward", "backward", "backward value"])
def test_a_launch_goes_by_another_name_when_kernel_or_configuration_change(kind, monkeypatch):
    launch = inspect.launch_of(inspect.Case(kind, 32, "float16", "sm_90"))
    before = recorded.source_of(kind, launch)
    assert recorded.source_of(kind, launch._replace(warps=2 * launch.warps)) != before
    wider = {**launch.constants, "BLOCK_D": 2 * launch.constants["BLOCK_D"]}
    assert recorded.source_of(kind, launch._replace(constants=wider)) != before
    monkeypatch.setattr(recorded, "_statements", lambda module: "pass")
    assert recorded.source_of(kind, launch) != before


def test_a_launch_that_spills_or_reads_narrowly_is_found_out():
    machine_code = pytest.importorskip("dcnify.kernels.tools.machine_code")
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
    machine_code = pytest.importorskip("dcnify.kernels.tools.machine_code")
    assert machine_code.access_of(instruction) == access


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "sm_12"], "invalid choice: 'sm_12'"),
        (["--kernel", "fwd"], "invalid choice: 'fwd'"),
        (["--width", "0"], "a whole number of at least 1, not '0'"),
        (["--jobs", "none"], "a whole number of at least 1, not 'none'"),
        (["--record", "/nowhere/record.csv"], "there is no folder /nowhere"),
        (["--record", __file__], "is no record of compiled kernels"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        inspect.main(arguments)
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not told.out
