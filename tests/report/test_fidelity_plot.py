"""A report as a picture: whatever dcnify wrote it, and whatever is missing in it."""

import json
import math
import sys

import matplotlib
import pytest
from PIL import Image

from dcnify.errors import InputError
from dcnify.report import measured_in, write_plot

PATHS = ["stages.0.blocks.0.conv_dw", "stages.1.blocks.0.conv_dw"]


def measured(*sqnr_db, **output):
    sites = [
        {"path": path, "sqnr_db": number, "cosine": 0.9, "reverted": False}
        for path, number in zip(PATHS, sqnr_db, strict=True)
    ]
    return {"sites": sites, "output": {"sqnr_db": 4.5, "cosine": 0.81, **output}}


def report(**more):
    return {"images": {"origin": "photos", "count": 8}, **measured(12.0, 3.0), **more}


STEPS = [
    {"step": "transfer", **measured(1.0, 2.0)},
    {"step": "calibrate", **measured(12.0, None, top1_agreement=0.66)},
]


@pytest.fixture
def texts(tmp_path):
    """What can be read in the picture of a report."""

    def draw(*reports):
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            write_plot(reports[0], tmp_path / "plot.svg", *reports[1:])
        return (tmp_path / "plot.svg").read_text("utf-8")

    return draw


def test_every_step_is_a_series_with_its_output_in_the_legend(texts):
    seen = texts(report(steps=STEPS))
    for words in ("transfer: output SQNR 4.5 dB", "calibrate:", "top-1 agreement 66%", *PATHS):
        assert words in seen
    assert "8 images (photos)" in seen


def test_a_report_from_before_steps_is_drawn_as_it_ended(texts):
    (one,) = measured_in(report())
    assert one.sqnr_db == dict(zip(PATHS, (12.0, 3.0), strict=True))
    assert "reported: output SQNR 4.5 dB, cosine 0.810" in texts(report())


def test_recomputed_numbers_stand_beside_the_reported_ones(texts):
    seen = texts(report(), measured(11.5, 2.5))
    for number in ("12.0", "11.5", "3.0", "2.5"):
        assert f">{number}<" in seen
    assert "recomputed: output" in seen


def test_an_exact_layer_is_drawn_and_said_to_be_exact(texts):
    assert measured_in(report(**measured(None, 3.0)))[0].sqnr_db[PATHS[0]] == math.inf
    assert ">exact<" in texts(report(**measured(None, 3.0)))
    assert ">exact<" in texts(report(**measured(math.inf, math.inf)))


def test_a_layer_that_was_put_back_is_marked(texts):
    reverted = report()
    reverted["sites"][1]["reverted"] = True
    assert ">3.0, reverted<" in texts(reverted)


def test_the_accuracy_is_shown_where_it_was_measured(texts):
    output = measured(1.0, 2.0, accuracy=0.881, original_accuracy=0.9)["output"]
    assert "accuracy 88.1% (original 90.0%)" in texts(report(output=output))


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"sites": None, "output": None, "steps": None},
        {"sites": [3, {"path": 1}, {"path": "x", "sqnr_db": "high"}, {}], "output": []},
        {"steps": [None, {"step": None, "sites": []}], "sites": "none", "images": 5},
        {"sites": [{"path": "a", "sqnr_db": math.nan}], "output": {"sqnr_db": math.nan}},
    ],
)
def test_a_report_of_another_form_is_drawn_as_far_as_it_goes(texts, odd):
    assert "no layer was swapped" in texts(odd)


def test_names_are_not_taken_for_formulas(texts):
    odd = json.loads(json.dumps(report()).replace("stages.0", "$x_{$").replace("photos", "$_$"))
    assert "$x_{$.blocks.0.conv_dw" in texts(odd)


@pytest.mark.slow
def test_a_deep_model_with_long_names_still_fits(tmp_path):
    sites = [{"path": f"{'encoder.' * 20}{n}.attn", "sqnr_db": n / 10} for n in range(100)]
    write_plot({"sites": sites}, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.height > image.width
        assert max(image.size) < 2**16


def test_without_matplotlib_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'dcnify\[report\]'"):
        write_plot(report(), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())
