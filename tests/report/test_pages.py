"""A page says the same on the terminal, in Markdown and in HTML."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import pytest

from dcnify.errors import InputError
from dcnify.report.chart import Axis, Chart, Series, thinned
from dcnify.report.quantity import COUNT, DECIBEL, MICROSECONDS_IN_MS, PERCENT, SHORT_COUNT
from dcnify.report.render import html, is_page, markdown, terminal
from dcnify.report.render.html import AT_ONCE
from dcnify.report.view import (
    Code,
    Column,
    Fact,
    Facts,
    Figure,
    Mark,
    Network,
    Page,
    Place,
    Section,
    Spread,
    Stage,
    Table,
    Text,
)

LAYERS = ("a.conv_dw", "<b>|`c`")
TABLE = Table(
    (Column("layer", code=True), Column("SQNR", DECIBEL), Column("accuracy", PERCENT)),
    ((LAYERS[0], 12.345, Spread(0.881, 0.004)), (LAYERS[1], float("inf"), None)),
)
BARS = Chart(
    Axis("SQNR", DECIBEL),
    Axis("", names=LAYERS),
    (Series("fit", (12.3, float("inf")), (0, 1), "bars", labels=("12.3", "exact")),),
)
FRONT = Chart(
    Axis("time", MICROSECONDS_IN_MS, log=True),
    Axis("accuracy", PERCENT),
    (
        Series("points", (1500.0, 3000.0), (0.5, 0.75), "points", around=(0.1, 0.1)),
        Series("front", (1500.0, 3000.0), (0.5, 0.75), "stairs"),
    ),
    levels=(("original", 0.8),),
)


def page(*parts):
    return Page("A <i>page</i>", "It says & shows.", (Section("First", parts),))


class Reader(HTMLParser):
    """What a page of HTML shows, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.loads, self.stack, self.said = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.loads += [v for k, v in attrs if k in ("src", "srcset", "data", "action")]
        self.loads += [given["href"]] if given.get("href", "#")[:1] != "#" else []
        self.stack.append(tag)

    def handle_data(self, data):
        if self.stack[-1:] not in (["script"], ["style"]):
            self.said.append(data)

    @property
    def text(self):
        return " ".join(self.said)


def read(*parts):
    return Reader(html(page(*parts)))


def lines(*parts):
    return [str(one) for part in parts for one in terminal(part)]


@pytest.mark.parametrize(
    ("quantity", "value", "text", "sentence"),
    [
        (DECIBEL, 12.345, "12.35", "12.35 dB"),
        (DECIBEL, float("inf"), "exact", "exact"),
        (PERCENT, 0.8834, "88.3%", "88.3%"),
        (COUNT, 1234567, "1,234,567", "1,234,567"),
        (SHORT_COUNT, 1234567, "1.23M", "1.23M"),
        (MICROSECONDS_IN_MS, 1234.0, "1.23", "1.23 ms"),
        (DECIBEL, -0.001, "0.00", "0.00 dB"),
        (DECIBEL, float("nan"), "undefined", "undefined"),
        (DECIBEL, None, "", ""),
    ],
)
def test_a_quantity_decides_on_unit_and_digits(quantity, value, text, sentence):
    assert quantity.text(value) == text
    assert quantity.with_unit(value) == sentence


def test_a_number_is_written_alike_everywhere():
    for told in (markdown(page(TABLE)), read(TABLE).text):
        for words in ("SQNR dB", "12.35", "88.1% ± 0.4%", "exact"):
            assert words in told
    (drawn,) = terminal(TABLE)
    assert [column.header for column in drawn.columns] == ["layer", "SQNR dB", "accuracy"]
    assert [str(cell) for cell in drawn.columns[1].cells] == ["12.35", "exact"]
    assert [str(cell) for cell in drawn.columns[2].cells] == ["88.1% ± 0.4%", ""]


def test_names_are_never_markup():
    seen = read(TABLE, Text("<script>alert(1)</script>"), Code("a: </code><b>"))
    assert "<b>|`c`" in seen.text
    assert "<script>alert(1)</script>" in seen.text
    assert "a: </code><b>" in seen.text
    written = markdown(page(TABLE, Text("<b> *x* _y_ a_b"), Code("```\n")))
    assert r"\<b\>\|\`c\`" in written
    assert r"\<b\> \*x\* \_y\_ a_b" in written
    assert "````yaml\n```\n````" in written


def test_a_row_of_markdown_has_as_many_cells_as_its_head():
    rows = [line for line in markdown(page(TABLE)).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}


def test_a_page_loads_nothing_and_no_name_is_there_twice():
    seen = read(TABLE, Figure((BARS, FRONT), "Two", "of them"), Figure((BARS,), "One", "more"))
    assert seen.loads == ["data:,"]
    assert len(seen.ids) == len(set(seen.ids))
    assert not re.findall(r"https?://(?!www\.w3\.org/)", html(page(Figure((BARS,), "a", "b"))))


def test_a_figure_takes_the_colours_of_the_page():
    drawn = "".join(re.findall(r"<svg.*?</svg>", html(page(Figure((FRONT,), "a", "b"))), re.S))
    assert "currentColor" in drawn
    assert "var(--series-1)" in drawn
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawn)) <= {"#808080"}


def test_who_cannot_see_a_figure_is_told_what_it_shows():
    seen = read(Figure((BARS, FRONT), "How close", "two layers"))
    for words in ("two layers", "12.30", "exact", "3.00", "75.0% ± 10.0%", "original"):
        assert words in seen.text
    figure = Figure((FRONT,), "How close", "two layers")
    assert lines(figure) == ["How close: two layers"]
    assert "How close: two layers" in markdown(page(figure))
    beside = Figure((FRONT,), "How close", "two layers", file="a b.png")
    assert "![two layers](a%20b.png)" in markdown(page(beside))


def test_series_differ_in_more_than_their_colour():
    drawn = html(page(Figure((FRONT,), "a", "b")))
    assert "stroke-dasharray" in drawn
    two = Chart(BARS.x, BARS.y, (BARS.series[0], Series("next", (1.0,), (0,), "bars")))
    assert "<pattern" in html(page(Figure((two,), "a", "b")))


@pytest.mark.slow
def test_rows_past_a_thousand_wait_for_the_reader():
    column = Column("n", COUNT)
    many = Table((column,), tuple((n,) for n in range(AT_ONCE + 2500)))
    text = html(page(many))
    assert text.count("<tr>") == AT_ONCE + 1
    assert '["3,499", 3499.0, ""]' in text
    assert len(html(page(Table((column,) * 12, ((123456,) * 12,) * 10_000)))) < 5 * 2**20


def test_a_narrow_first_column_stays_in_sight_and_a_wide_one_does_not():
    for name, pinned in (("21", True), ("finetune.stages.recover.augment.crop_ratio", False)):
        text = html(page(Table((Column("point"), Column("n", COUNT)), ((name, 1),))))
        assert ('<table class="pinned">' in text) == pinned


def test_the_network_is_drawn_in_signs():
    places = (
        Place("0", "swapped", "s.0: becomes DCNv4", "12.0 dB"),
        Place("1", "kept", "s.1: not selected"),
        Place("2", "reverted", "s.2: lost too much"),
    )
    network = Network((Stage("stage 0", "8x8", places),))
    assert lines(network) == ["stage 0  ■□▨  8x8", "■ swapped, □ kept, ▨ reverted"]
    assert "stage 0  ■□▨  8x8" in markdown(page(network))
    assert "kept: s.1: not selected" in read(network).text


def test_a_fact_has_its_unit_and_a_mark_its_word():
    facts = Facts((Fact("time", 1500.0, MICROSECONDS_IN_MS), Fact("is", Mark("held", "good"))))
    assert lines(facts) == ["time: 1.50 ms", "is: held"]
    assert "- time: 1.50 ms" in markdown(page(facts))


def test_a_page_is_known_by_its_mark(tmp_path):
    for name, text in (("a.html", html(page(TABLE))), ("a.md", markdown(page(TABLE)))):
        (tmp_path / name).write_text(text, "utf-8")
        assert is_page(tmp_path / name)
    (tmp_path / "other.html").write_text("<html></html>")
    (tmp_path / "bytes.html").write_bytes(b"\xff\xfe\x00")
    assert not any(map(is_page, (tmp_path / "other.html", tmp_path / "bytes.html", tmp_path)))


def test_a_long_line_is_thinned_by_means():
    line = Series("", tuple(map(float, range(1000))), (1.0, 3.0) * 500)
    short = thinned(line, most=500)
    assert len(short.x) == 500
    assert short.x[0] == 0.5
    assert set(short.y) == {2.0}
    assert thinned(line, most=1000) is line


@pytest.mark.parametrize(("module", "words"), [("jinja2", "jinja2"), ("matplotlib.figure", "matp")])
def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{words}.*pip install 'dcnify\[report\]'"):
        html(page(Figure((BARS,), "a", "b")))
