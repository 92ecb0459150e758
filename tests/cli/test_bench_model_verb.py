"""``bench model`` as a person uses it, and as a person misuses it."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import timm
import torch

from dcnify.artifact import read_artifact
from dcnify.bench import csv_file, models
from dcnify.cli import main

ARCH = ("--arch", "test_convnext")
QUICK = ("--time", "0.01", "--batch", "2", "--cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """model.pt, and what was converted: from it, from a timm name, and with a handover."""
    place = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext").state_dict(), place / "model.pt")
    here = ("convert", str(place / "model.pt"), *ARCH)
    handing = ("--set", "swaps.dw7.handover=true")
    how = ("-r", "convnext", "--set", "swaps.dw7.init=paper", "--input-size", "64", "--quiet")
    assert main((*here, *how, "-o", str(place / "out"))) == 0
    assert main((*here, *how, *handing, "-o", str(place / "handing"))) == 0
    assert main(("convert", "timm:test_convnext", *how, "-o", str(place / "named"))) == 0
    return place


@pytest.fixture
def dcnify(capsys, monkeypatch, made):
    """Run the command line beside the artifacts; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(made)

    def run(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(("bench", "model", *args))
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def nothing_is_timed(monkeypatch):
    def fail(*args, **kwargs):
        pytest.fail("the measurement began")

    monkeypatch.setattr(models, "rounds_of", fail)


@pytest.mark.slow
def test_both_models_stand_in_a_table_with_how_many_times_as_fast(dcnify):
    code, out, err = dcnify("out", *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "original: " in lines[1]
    assert "2x3x64x64, float32, forward" in out
    assert "backward" not in out
    header = next(line for line in lines if line.startswith("model "))
    for column in ("ms", "p20-p80", "images/s", "params", "FLOPs an image"):
        assert column in header
    assert [line.split()[0] for line in lines if line.startswith(("original ", "converted "))] == [
        "original",
        "converted",
    ]
    (ratio,) = [line for line in lines if line.startswith("converted:")]
    assert "times as fast (p20-p80 " in ratio
    assert lines[-1] == "these are times of the CPU kernels; they say nothing of a GPU"


@pytest.mark.slow
def test_json_holds_everything_and_nothing_else_is_printed(dcnify):
    code, out, _ = dcnify("out", *QUICK, "--train", "--json")
    data = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert data["artifact"] == "out"
    assert data["original"].endswith("model.pt")
    assert (data["shape"], data["dtype"]) == ([2, 3, 64, 64], "float32")
    assert data["machine"]["torch"] == torch.__version__
    assert [one["pass"] for one in data["passes"]] == ["forward", "forward+backward"]
    for one in data["passes"]:
        assert one["clock"] == "wall"
        assert one["timings"].keys() == {"original", "converted"}
        assert len({timing["rounds"] for timing in one["timings"].values()}) == 1
        assert 0 < one["speedup"]["p20"] <= one["speedup"]["p50"] <= one["speedup"]["p80"]
        for timing in one["timings"].values():
            assert 0 < timing["p20_us"] <= timing["p50_us"] <= timing["p80_us"]
            assert timing["images_per_s"] == pytest.approx(2e6 / timing["p50_us"])
            assert timing["peak_memory_bytes"] is None


@pytest.mark.slow
def test_a_model_that_does_not_run_beneath_a_counter_is_timed_all_the_same(dcnify, monkeypatch):
    class Shy(models.FlopCounterMode):
        def __enter__(self):
            raise TypeError("not here")

    monkeypatch.setattr(models, "FlopCounterMode", Shy)
    code, out, err = dcnify("out", *QUICK)
    assert (code, err) == (0, "")
    assert out.count("not counted") == 2


@pytest.mark.slow
def test_parameters_and_flops_are_what_the_plan_promised(dcnify, made):
    sizes = json.loads(dcnify("out", *QUICK, "--json")[1])["models"]
    swaps = read_artifact(made / "out").plan.swaps
    assert sizes["original"]["parameters"] == sum(
        one.numel() for one in timm.create_model("test_convnext").parameters()
    )
    more = {key: sizes["converted"][key] - sizes["original"][key] for key in sizes["original"]}
    assert more["parameters"] == sum(one.parameters - one.site.parameters for one in swaps)
    assert more["flops"] == sum(one.flops - one.site.flops for one in swaps)


@pytest.mark.slow
def test_the_speedup_is_taken_round_by_round(dcnify, monkeypatch):
    both = {"original": [10.0, 40.0, 10.0, 10.0], "converted": [20.0, 20.0, 20.0, 5.0]}
    monkeypatch.setattr(models, "rounds_of", lambda *args: both)
    (one,) = json.loads(dcnify("out", *QUICK, "--json")[1])["passes"]
    assert one["speedup"]["p50"] == pytest.approx(1.25)  # of 0.5, 2, 0.5 and 2
    assert one["timings"]["original"]["p50_us"] == 10.0


@pytest.mark.slow
def test_csv_has_a_row_for_each_model_and_pass(dcnify, tmp_path):
    file = tmp_path / "a.csv"
    code, out, _ = dcnify("out", *QUICK, "--train", "--csv", str(file), "--threads", "1")
    assert code == 0
    assert f"wrote {file}" in out
    with file.open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert tuple(rows[0]) == csv_file.MODEL_COLUMNS
    assert [(row["model"], row["pass"]) for row in rows] == [
        ("original", "forward"),
        ("converted", "forward"),
        ("original", "forward+backward"),
        ("converted", "forward+backward"),
    ]
    on_cpu = {"driver", "cuda", "peak_memory_bytes"}
    assert all(row[name] for row in rows for name in {*csv_file.MODEL_COLUMNS} - on_cpu)
    assert {row["threads"] for row in rows} == {"1"}
    code, _, err = dcnify("out", *QUICK, "--csv", str(file))
    assert code == 2
    assert "--overwrite" in err


@pytest.mark.slow
def test_size_batch_and_dtype_are_as_asked(dcnify):
    how = ("--input-size", "32x48", "--dtype", "bfloat16", "--batch", "3")
    data = json.loads(dcnify("out", "--time", "0.01", "--device", "cpu", *how, "--json")[1])
    assert (data["shape"], data["dtype"]) == ([3, 3, 32, 48], "bfloat16")


@pytest.mark.slow
def test_the_original_may_be_named_and_must_be_the_one(dcnify, made, tmp_path):
    shutil.copy(made / "model.pt", tmp_path / "moved.pt")
    moved = str(tmp_path / "moved.pt")
    code, out, err = dcnify("out", *QUICK, "--against", moved, *ARCH)
    assert code == 0, err
    assert f"original: {moved}" in out
    code, out, err = dcnify("out", *QUICK, "--against", "timm:test_vit")
    assert (code, out) == (2, "")
    assert "was made from timm:test_convnext" in err


@pytest.mark.slow
def test_an_original_that_is_gone_is_to_be_named(dcnify, made):
    (made / "model.pt").rename(made / "away.pt")
    try:
        code, out, err = dcnify("out", *QUICK)
    finally:
        (made / "away.pt").rename(made / "model.pt")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("name it with --against")
    assert "model.pt" in err


@pytest.mark.slow
def test_a_timm_name_needs_no_network_to_be_timed(dcnify):
    code, out, err = dcnify("named", *QUICK)
    assert code == 0, err
    assert "original: timm:test_convnext" in out


@pytest.mark.slow
def test_layers_that_hand_over_are_timed_as_they_will_be(dcnify):
    code, out, err = dcnify("handing", *QUICK, "--json")
    assert code == 0
    assert "9 layers hand over" in err
    sizes = json.loads(out)["models"]
    assert sizes == json.loads(dcnify("out", *QUICK, "--json")[1])["models"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere",), "nowhere"),
        (("out", "--batch", "0"), "--batch must be at least 1"),
        (("out", "--threads", "100000"), "--threads must be at most 1024"),
        (("out", "--time", "0"), "--time is a number of seconds above 0"),
        (("out", "--threads", "0"), "--threads must be at least 1"),
        (("out", "--dtype", "float23"), "did you mean 'float32'?"),
        (("out", "--device", "gpu"), "unknown device 'gpu'"),
        (("out", "--cpu", "--device", "cuda"), "--cpu and --device cuda do not go together"),
        (("out", "--input-size", "big"), "--input-size big: expected 224"),
        (("out", "--cpu", "--input-size", "8"), "the original model does not run forward on"),
        (("out", "--cpu", "--batch", "999999999"), "try a smaller --batch"),
        (("out", "--arch", "test_convnext"), "--arch needs --against SOURCE"),
        (("out", "--csv", "nowhere/a.csv"), "there is no folder 'nowhere'"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_timed(dcnify, nothing_is_timed, args, words):
    code, out, err = dcnify(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.gpu
def test_on_cuda_the_memory_of_each_model_is_known(dcnify):
    how = ("--device", "cuda", "--time", "0.05", "--batch", "4", "--dtype", "float16", "--train")
    code, out, err = dcnify("out", *how, "--json")
    assert code == 0, err
    for one in json.loads(out)["passes"]:
        assert one["clock"] == "device"
        assert all(timing["peak_memory_bytes"] > 0 for timing in one["timings"].values())
    assert "peak memory" in dcnify("out", *how)[1]
