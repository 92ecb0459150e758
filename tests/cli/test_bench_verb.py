"""``bench op`` as a person uses it, and as a person misuses it."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dcnify.bench import OpBenchSpec, csv_file, op, request, settle
from dcnify.bench.peers import PEERS
from dcnify.bench.rivals import BUILT_IN, OURS, Prepared, Rival
from dcnify.cli import main

TINY = ("bench", "op", "--shapes", "5x6x32g2", "--batch", "1", "--time", "0.01", "--device", "cpu")
FORWARD = (*TINY, "--pass", "forward")


@pytest.fixture
def dcnify(capsys, monkeypatch, tmp_path):
    """Run the command line in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(args)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def _no_packages(monkeypatch):
    """As where no other implementation of DCNv4 is installed."""
    absent = (replace(peer, package="no_such_package") for peer in PEERS)
    monkeypatch.setattr(request, "RIVALS", (*BUILT_IN, *absent))


@pytest.fixture
def nothing_is_timed(monkeypatch):
    def fail(*args, **kwargs):
        pytest.fail("the measurement began")

    monkeypatch.setattr(op, "clock_on", fail)


@pytest.fixture
def rivals(monkeypatch):
    """Replace the rivals there are."""

    def use(*rivals: Rival) -> None:
        monkeypatch.setattr(request, "RIVALS", rivals)

    return use


def test_a_table_shows_times_bytes_and_ratios(dcnify):
    code, out, err = dcnify(*TINY)
    assert code == 0
    assert "float32, forward " in out
    assert "float32, forward+backward" in out
    header = next(line for line in out.splitlines() if line.startswith("shape"))
    for column in ("batch", "µs", "p20-p80", "GB/s", "of copy", "grid_sample", "deform_conv2d"):
        assert column in header
    row = next(line for line in out.splitlines() if line.startswith("5x6x32g2"))
    assert row.count("x") == 2 + 5
    assert "not installed: dcnv4_cuda, nusu, nusu_triton" in out
    assert "measuring on cpu: 2 interleaved runs" in err


def test_quiet_says_nothing_besides_the_result(dcnify):
    code, out, err = dcnify(*FORWARD, "--rivals", "none", "--quiet")
    assert (code, err) == (0, "")
    assert "grid_sample" not in out


@pytest.mark.slow
def test_json_holds_everything_and_nothing_else_is_printed(dcnify):
    code, out, _ = dcnify(*TINY, "--json", "--dtype", "float64,float32", "--offsets", "0.5")
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert [(c["dtype"], c["pass"]) for c in data["cases"]] == [
        ("float64", "forward"),
        ("float64", "forward+backward"),
        ("float32", "forward"),
        ("float32", "forward+backward"),
    ]
    assert data["offset_spread"] == 0.5
    assert data["machine"]["torch"] == torch.__version__
    assert [one["name"] for one in data["not_installed"]] == ["dcnv4_cuda", "nusu", "nusu_triton"]
    first = data["cases"][0]
    assert (first["shape"], first["batch"], first["groups"]) == ("5x6x32g2", 1, 2)
    by_name = {m["contender"]: m for m in first["measurements"]}
    assert set(by_name) == {
        "dcnify",
        "copy",
        "dcnv4_torch",
        "grid_sample",
        "deform_conv2d",
        "depthwise7x7",
        "sdpa",
    }
    ours, copied, rival = by_name["dcnify"], by_name["copy"], by_name["grid_sample"]
    assert ours["p20_us"] <= ours["p50_us"] <= ours["p80_us"]
    assert len({m["rounds"] for m in by_name.values()}) == 1
    assert rival["ratio_to_ours"] == pytest.approx(rival["p50_us"] / ours["p50_us"])
    assert ours["gb_per_s"] == pytest.approx(first["floor_bytes"] / ours["p50_us"] / 1e3)
    assert ours["share_of_copy"] == pytest.approx(copied["p50_us"] / ours["p50_us"])
    assert rival["max_rel_error"] < 1e-9
    assert by_name["sdpa"]["gb_per_s"] is None


SAME = ("dcnv4_torch", "grid_sample", "deform_conv2d")


def test_csv_has_a_row_for_each_measurement(dcnify):
    code, out, _ = dcnify(*TINY, "--csv", "a.csv", "--threads", "1")
    assert code == 0
    assert "wrote a.csv" in out
    with open("a.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == csv_file.COLUMNS
    assert len(rows) == 14
    assert {row["pass"] for row in rows} == {"forward", "forward+backward"}
    for row in rows:
        known = ("date", "device", "device_name", "torch", "dcnify", "python", "p50_us", "rounds")
        assert all(row[name] for name in known)
        assert row["threads"] == "1"
        assert bool(row["max_rel_error"]) == (row["contender"] in SAME)
    assert next(row for row in rows if row["contender"] == "dcnify")["ratio_to_ours"] == "1"


def test_threads_are_as_before_afterwards(dcnify):
    before = torch.get_num_threads()
    assert dcnify(*FORWARD, "--rivals", "none", "--threads", "1")[0] == 0
    assert torch.get_num_threads() == before


def test_a_plot_is_a_picture(dcnify):
    pytest.importorskip("matplotlib")
    code, out, _ = dcnify(*FORWARD, "--plot", "a.png", "--rivals", "depthwise7x7")
    assert code == 0
    assert "wrote a.png" in out
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in Path().iterdir()] == ["a.png"]


def test_a_plot_without_matplotlib_names_the_extra_before_measuring(
    dcnify, monkeypatch, nothing_is_timed
):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    code, out, err = dcnify(*FORWARD, "--plot", "a.png")
    assert (code, out) == (2, "")
    assert "pip install 'dcnify[report]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--shapes", ""), "unknown shape ''; write HEIGHTxWIDTHxCHANNELSgGROUPS"),
        (("--shapes", "56x56"), "unknown shape '56x56'; write HEIGHTxWIDTHxCHANNELSgGROUPS"),
        (("--shapes", "8x8x128g5"), "5 groups do not divide 128 channels, try 8x8x128g4"),
        (("--shapes", "8x8x128g0"), "0 groups do not divide 128 channels, try 8x8x128g1"),
        (("--shapes", "0x8x128g4"), "at least 1"),
        (("--dtype", "float23"), "unknown dtype 'float23', did you mean 'float32'?"),
        (("--dtype", "int8"), "unknown dtype 'int8', "),
        (("--rivals", "grid_samples"), "did you mean 'grid_sample'?"),
        (("--rivals", "none,sdpa"), "--rivals none goes with no other"),
        (("--pass", "backward"), "unknown pass 'backward', "),
        (("--device", "gpu"), "unknown device 'gpu', there is cpu, cuda and cuda:N"),
        (("--device", "cpu:1"), "unknown device 'cpu:1'"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--batch", "0"), "--batch must be at least 1, not 0"),
        (("--batch", "999999999"), "try a smaller --batch"),
        (("--threads", "0"), "--threads must be at least 1"),
        (("--time", "0"), "--time is a number of seconds above 0"),
        (("--time", "nan"), "--time is a number of seconds above 0"),
        (("--offsets", "-1"), "--offsets is a number of pixels"),
        (("--csv", "nowhere/a.csv"), "there is no folder 'nowhere'"),
        (("--csv", "."), "is a folder"),
        (("--plot", "a.jpeg"), "a plot ends in .png, .svg or .pdf"),
        (("--plot", "a.png", "--csv", "a.png"), "both name a.png"),
        (("--plot", "a.png", "--rivals", "none"), "none is to be measured"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_measured(
    dcnify, nothing_is_timed, args, words
):
    code, out, err = dcnify(*TINY[:2], *args)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_an_existing_file_is_kept_unless_told(dcnify, monkeypatch):
    Path("a.csv").write_text("precious")
    code, _, err = dcnify(*FORWARD, "--csv", "a.csv")
    assert code == 2
    assert "--overwrite" in err
    assert Path("a.csv").read_text() == "precious"
    assert dcnify(*FORWARD, "--rivals", "none", "--csv", "a.csv", "--overwrite")[0] == 0
    assert Path("a.csv").read_text().startswith("date,")


def test_a_rival_that_cannot_run_is_a_dash_and_a_note(dcnify, rivals):
    def cannot(inputs):
        raise NotImplementedError('"kernel" not implemented for this\nand more')

    rivals(Rival("lame", "", cannot), next(r for r in BUILT_IN if r.name == "depthwise7x7"))
    code, out, _ = dcnify(*TINY)
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith("5x6x32g2")]
    assert all(row.split()[-2] == "-" for row in rows)
    notes = [line for line in out.splitlines() if line.startswith("- lame: ")]
    assert notes == [
        '- lame: "kernel" not implemented for this (1x5x6x32g2 float32 forward and 1 more)'
    ]


def test_a_rival_that_is_wrong_ends_the_run_with_exit_code_3(dcnify, rivals):
    def doubled(inputs):
        right = OURS.prepare(inputs)
        return Prepared(right.leaves, lambda *leaves: right.forward(*leaves) * 2)

    rivals(Rival("double", "", doubled, must_agree=frozenset({torch.float32})))
    code, out, err = dcnify(*FORWARD, "--csv", "a.csv")
    assert (code, out) == (3, "")
    assert "double and dcnify disagree at 1x5x6x32g2 float32 forward" in err
    assert not Path("a.csv").exists()


def test_another_package_that_is_wrong_is_a_note(dcnify, rivals):
    def doubled(inputs):
        right = OURS.prepare(inputs)
        return Prepared(right.leaves, lambda *leaves: right.forward(*leaves) * 2)

    rivals(Rival("peer", "", doubled, package="torch"))
    code, out, _ = dcnify(*FORWARD)
    assert code == 0
    assert "peer gives another answer than dcnify, relative error 1.0e+00" in out


def test_ctrl_c_is_one_line(dcnify, rivals):
    def interrupted(inputs):
        raise KeyboardInterrupt

    rivals(Rival("long", "", interrupted, same_function=False))
    code, out, err = dcnify(*FORWARD, "--csv", "a.csv")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted"
    assert not Path("a.csv").exists()


def test_without_arguments_the_papers_shapes_are_measured():
    bench = settle(OpBenchSpec(device="cpu"))
    assert len(bench.cases) == 14
    batches = {str(case.shape): case.batch for case in bench.cases}
    assert batches["56x56x128g4"] == 4
    assert batches["200x320x128g4"] == 1
    assert {case.dtype for case in bench.cases} == {torch.float32}
    assert str(settle(OpBenchSpec(("7x7x1024",), device="cpu")).cases[0].shape) == "7x7x1024g32"


@pytest.mark.gpu
def test_on_cuda_every_dtype_and_the_host_time_are_measured(dcnify):
    args = ("--shapes", "14x14x64g2", "--batch", "2", "--time", "0.05", "--device", "cuda")
    code, out, err = dcnify("bench", "op", *args, "--csv", "a.csv", "--json")
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 0, err
    assert {case["dtype"] for case in data["cases"]} == {"float16", "bfloat16", "float32"}
    assert {case["clock"] for case in data["cases"]} == {"device"}
    assert [case["pass"] for case in data["host"]] == ["forward", "forward+backward"]
    assert data["machine"]["driver"]
    for case in data["cases"]:
        assert {m["contender"] for m in case["measurements"]} >= {"dcnify", "copy", "grid_sample"}
        assert not case["remarks"] or case["dtype"] != "float32"
    assert dcnify("bench", "op", *args, "--pass", "forward")[1].count("host time of one call") == 1
