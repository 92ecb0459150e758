"""A page opens in a browser: no message on its console, no request, and nothing too wide."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.quantity import COUNT, DECIBEL
from dcnify.report.render import html
from dcnify.report.view import Code, Column, Figure, Network, Page, Place, Section, Stage, Table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
LAYERS = tuple(f"backbone.stages.{n}.blocks.0.token_mixer.conv_dw" for n in range(1200))
BARS = Series("fit", tuple(map(float, range(8))), tuple(map(float, range(8))), "bars")
PAGE = Page(
    "A page",
    "A sentence.",
    (
        Section(
            "All",
            (
                Network((Stage("stage 0", "8x8", (Place("0", "swapped", "becomes DCNv4"),) * 40),)),
                Figure(
                    (Chart(Axis("SQNR", DECIBEL), Axis("", names=LAYERS[:8]), (BARS,)),), "", ""
                ),
                Table(
                    (Column("layer", code=True), Column("number", COUNT)),
                    tuple((name, number) for number, name in enumerate(LAYERS)),
                ),
                Code("version: 1\n" + "name: " + "x" * 500),
            ),
        ),
    ),
)
# The page in a frame of a width: Chromium's own windows are no narrower than 500 pixels.
FRAME = """<!DOCTYPE html><iframe src="page.html" style="width: {width}px; height: 900px"></iframe>
<script>
const frame = document.querySelector("iframe");
const printed = (inside, view) => {{  // what is open on paper
  inside.querySelectorAll("details").forEach((one) => {{ one.open = false; }});
  view.dispatchEvent(new Event("beforeprint"));
  return [...inside.querySelectorAll("details[open] summary")].map((one) => one.textContent);
}};
frame.onload = () => setTimeout(() => {{
  const inside = frame.contentDocument, view = frame.contentWindow;
  inside.querySelectorAll("details").forEach((one) => {{ one.open = true; }});
  [...inside.querySelectorAll("thead button")].at(-1).click();  // sorting needs all rows
  document.body.dataset.seen = JSON.stringify({{
    wide: inside.documentElement.scrollWidth, view: view.innerWidth,
    rows: [...inside.querySelectorAll("table")].at(-1).tBodies[0].rows.length,
    requests: view.performance.getEntriesByType("resource").length,
    printed: printed(inside, view),
  }});
}}, 200);
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [380, 1400])
def test_a_page_opens_without_a_message_or_a_request_and_fits(tmp_path, width):
    (tmp_path / "page.html").write_text(html(PAGE), "utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), "utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=4000",
            "--enable-logging=stderr",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    seen = re.search(r"data-seen=\"([^\"]*)\"", done.stdout)
    assert seen, done.stderr[-2000:]
    found = json.loads(seen[1].replace("&quot;", '"'))
    assert found["wide"] <= found["view"]
    assert found["rows"] == len(LAYERS)
    assert found["requests"] == 0
    assert found["printed"] == ["yaml"]  # the recipe, and not the numbers of the figure
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
