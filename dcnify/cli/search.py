"""dcnify search: choose which layers to swap within a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.search.spec import SearchSpec

if TYPE_CHECKING:
    from dcnify.search.result import Candidate, SearchResult, Values

Request = Annotated[
    SearchSpec,
    Offer(
        argument="source.source",
        help={
            "images.image_count": "How many images. All that the recipe does not calibrate on are "
            "measured on; by default there are 128 of them.",
            "bench.seconds": "How long layers are timed, and each model that is chosen.",
        },
        without=("bench.train", "bench.dtype", "bench.seed"),
    ),
]
_COSTS = (("latency", "latency"), ("FLOPs", "flops"), ("params", "params"))


@verb
def search(spec: Request, terminal: Terminal) -> None:
    """Choose which layers to swap within a budget, convert them, and write the recipe.

    What each swap alone costs and harms is measured and kept, so that a search that was stopped
    goes on, and one with another budget only chooses and converts.

    \b
    $ dcnify search model.pt --images photos/ --budget "latency<=0.8" -o found/
    $ dcnify search model.pt -r mobilenet --budget "flops<=1.2,agreement>=90%" -o found/
    $ dcnify search timm:vit_tiny_patch16_224 --pretrained --budget "sites>=6" -o found/
    """
    spec.check()
    from dcnify.search.run import run

    with terminal.progress("opening the model", lines=True) as shown:
        found = run(spec, progress=shown.phase, say=terminal.say)
    terminal.emit(found.to_dict(), lambda: _render(found, spec.output))


def _render(found: SearchResult, output: str) -> list[Any]:
    harm = "KL" if found.measure == "kl" else "squared relative error"
    columns = ("", ">layers", f">{harm}", ">agreement", *(f">{name}" for name, _key in _COSTS))
    rows: list[tuple[object, ...]] = [("original", *_row(found.original, found.measure))]
    for one in found.sets:
        name = one.method if one.method == "all" else f"by {one.method}"
        rows.append((f"{name}, predicted", *_row(one.predicted, found.measure)))
    for index, made in enumerate(found.rounds):
        again = " again" if index else ""
        rows.append((f"chosen{again}, predicted", *_row(made.predicted, found.measure)))
        rows.append((f"chosen{again}, measured", *_row(made.measured, found.measure)))
    if found.artifact is not None and found.artifact != found.rounds[-1].measured:
        rows.append(("artifact, measured", *_row(found.artifact, found.measure)))
    parts: list[Any] = [
        _candidates(found, harm),
        "",
        table(columns, rows, f"sets: {found.goal} within {', '.join(found.budget)}"),
        f"latency: {found.machine}; ratios to the original",
        f"damage: on {found.images['measured']} images ({found.images['origin']})",
    ]
    parts += [f"note: {note}" for note in found.notes]
    parts.append(f"chosen: {', '.join(found.chosen)}")
    return [*parts, f"wrote {output}/recipe.yaml and {output}/artifact"]


def _candidates(found: SearchResult, harm: str) -> Any:
    columns = ("layer", "becomes", f">{harm} alone", ">agreement", *(f">{n}" for n, _k in _COSTS))
    rows = []
    for one in found.candidates:
        state = "swapped" if one.path in found.chosen else _refusal(one)
        cells = _row(one.values, found.measure)[1:3]
        added = [f"{one.added[key]:+.1%}" if key in one.added else "" for _name, key in _COSTS]
        rows.append((one.path, one.becomes, *cells, *added, state))
    return table((*columns, ""), rows, "each swap alone")


def _refusal(one: Candidate) -> str:
    return f"refused: {one.refused}" if one.refused else ""


def _row(values: Values, measure: str) -> list[str]:
    if not values:
        return ["no set", *("" for _ in range(2 + len(_COSTS)))]
    sites, harm, same = values.get("sites"), values.get(measure), values.get("agreement")
    ratios = [values.get(f"{key}_ratio") for _name, key in _COSTS]
    return [
        "" if sites is None else f"{sites:.0f}",
        "" if harm is None else f"{max(harm, 0.0):.3g}",
        "" if same is None else f"{same:.1%}",
        *("" if one is None else f"{one:.2f}x" for one in ratios),
    ]
