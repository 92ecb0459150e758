"""The report of a run as a page of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dcnify.recipe import Recipe
from dcnify.report import accuracy_table, percent


def page(recipe: Recipe, source: str, told: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Describe a run: accuracies, timings, layers, and the pictures beside the page."""
    return "\n".join(_lines(recipe, source, told, pictures)) + "\n"


def _lines(
    recipe: Recipe, source: str, told: Mapping[str, Any], pictures: Sequence[str]
) -> Iterator[str]:
    conversion, tuned, bench = told["conversion"], told["finetune"], told["bench"]
    yield f"# {recipe.name}: {source}"
    yield ""
    if recipe.description:
        yield from (recipe.description, "")
    header, rows = accuracy_table(tuned)
    for row in ([name.lstrip(">") for name in header], ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""
    yield f"Trained for {tuned['seconds']:.0f} s on {tuned['data']}."
    if tuned["best_artifact"]:
        yield f"The best, {percent(tuned['best'])} at {tuned['best_at']}, is kept as well."
    if tuned["skipped"]:
        yield f"{len(tuned['skipped'])} images could not be read."
    yield ""
    yield from ("| model | p20 ms | p50 ms | p80 ms |", "|---|---|---|---|")
    (forward,) = bench["passes"]
    for name, timing in forward["timings"].items():
        times = (f"{timing[key] / 1e3:.2f}" for key in ("p20_us", "p50_us", "p80_us"))
        yield f"| {name} | {' | '.join(times)} |"
    yield ""
    shape = "x".join(map(str, bench["shape"]))
    machine, speedup = bench["machine"], forward["speedup"]
    yield (
        f"The converted model is {speedup['p50']:.2f} times as fast as the original "
        f"(p20 {speedup['p20']:.2f}, p80 {speedup['p80']:.2f}), for {shape} in {bench['dtype']} on "
        f"{machine['device_name']} ({machine['threads']} threads, "
        f"torch {machine['torch']})."
    )
    yield ""
    before, after = conversion["parameters"]
    yield f"Parameters: {before:,} before, {after:,} after."
    yield ""
    yield from ("| layer | SQNR dB | cosine |", "|---|---|---|")
    for site in conversion["sites"]:
        sqnr = "exact" if site["sqnr_db"] is None else f"{site['sqnr_db']:.2f}"
        note = ", reverted" if site.get("reverted") else ""
        yield f"| {site['path']} | {sqnr}{note} | {site['cosine']:.4f} |"
    yield ""
    yield "Layers right after the conversion, given what the old ones were given."
    for picture in pictures:
        yield from ("", f"![{picture}]({picture})")
