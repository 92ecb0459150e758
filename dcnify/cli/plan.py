"""dcnify plan: what a recipe would do to a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.bench.spec import ModelBenchSpec
from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import RecipeSpec, Source
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError

if TYPE_CHECKING:
    from dcnify.bench import PlanTimings
    from dcnify.bench.result import Timing

Timed = Annotated[
    ModelBenchSpec,
    Offer(
        help={"seconds": "Time old and new layers on this machine, in turn, for so long."},
        without=("train", "dtype", "seed"),
    ),
]


@verb
def plan(source: Source, recipe: RecipeSpec, timed: Timed, terminal: Terminal) -> None:
    """Show which site becomes what, what that costs, and why each other candidate stays.

    Nothing is changed and nothing is written.

    \b
    $ dcnify plan timm:convnext_tiny -r convnext-late
    $ dcnify plan timm:convnext_tiny -r convnext-late --time 10
    $ dcnify plan model.pt -r my.yaml --set swaps.late.replace.kernel_size=5
    """
    source.check()
    if timed.seconds is None and (timed.batch, timed.device, timed.threads) != (None, None, None):
        raise InputError("--batch, --device and --threads need --time SECONDS")
    loaded = recipe.load()
    from dcnify.artifact import open_source
    from dcnify.bench import settle_models, time_swaps
    from dcnify.graph.example import Example
    from dcnify.surgery import plan as make_plan
    from dcnify.surgery.table import plan_tables

    bench = settle_models(timed)
    with terminal.progress("opening the model") as shown:
        opened = open_source(source, on_progress=shown.phase)
        shown.phase("planning", 0, 1)
        shape = source.input_shape(opened.input_size, loaded.input)
        example = Example.of(opened.example(shape))
        made = make_plan(opened.model, loaded, example)
        timings = None
        if timed.seconds is not None:
            timings = time_swaps(opened.model, made, example, bench, shown.phase)
    for note in opened.notes:
        terminal.say(note)
    data: dict[str, Any] = json.loads(made.to_json())
    if timings is not None:
        data["timings"] = timings
    terminal.emit(data, lambda: [*plan_tables(made), *(_times(timings) if timings else ())])


def _times(timings: PlanTimings) -> list[Any]:
    rows = [(one.path, *_row(one.old, one.new)) for one in timings.swaps]
    rows.append(("the whole model", *_row(timings.original, timings.converted)))
    shape = "x".join(map(str, timings.shape))
    columns = ("", ">ms", ">p20-p80", ">new ms", ">p20-p80", ">times as fast")
    return ["", timings.machine.line, table(columns, rows, f"forward, {shape}")]


def _row(old: Timing, new: Timing) -> list[str]:
    cells: list[str] = []
    for one in (old, new):
        p20, p50, p80 = (f"{number / 1e3:.2f}" for number in (one.p20_us, one.p50_us, one.p80_us))
        cells += [p50, f"{p20}-{p80}"]
    return [*cells, f"{old.p50_us / new.p50_us:.2f}"]
