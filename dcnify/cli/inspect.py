"""dcnify inspect: what could be swapped in a model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from dcnify.cli.flatten import verb
from dcnify.cli.options import Source
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal

if TYPE_CHECKING:
    from dcnify.graph import Site, Sites


@verb
def inspect(source: Source, terminal: Terminal) -> None:
    """List every site of a model that a swap could replace, and the near misses with the reason.

    \b
    $ dcnify inspect timm:convnext_tiny
    $ dcnify inspect checkpoint.pth --arch vit_small_patch16_224 --json
    """
    source.check()
    from dcnify.artifact import open_source
    from dcnify.graph import find_sites

    with terminal.progress("opening the model") as shown:
        opened = open_source(source, on_progress=shown.phase)
        shown.phase("capturing the graph", 0, 1)
        example = opened.example(source.input_shape(opened.input_size))
        sites = find_sites(opened.model, example)
    for note in opened.notes:
        terminal.say(note)
    data = {
        "source": source.source,
        "architecture": opened.base.name if opened.base else type(opened.model).__name__,
        "input": list(example.shape),
        "sites": [site.to_dict() for site in sites],
        "near_misses": [miss.to_dict() for miss in sites.near_misses],
    }
    terminal.emit(data, lambda: _render(source.source, sites))


def _render(source: str, sites: Sites) -> list[Any]:
    columns = ("site", "role", "input", "output", "kernel or heads", "stage", "grid", "prefix")
    parts: list[Any] = []
    if len(sites):
        parts += [table((*columns, ">params"), [_row(site) for site in sites]), ""]
    roles = Counter(site.role for site in sites)
    found = ", ".join(f"{count} {role}" for role, count in roles.items()) or "no sites"
    parts.append(f"{source}: {found}")
    if sites.near_misses:
        near = [(miss.path or "(model)", miss.role, miss.reason) for miss in sites.near_misses]
        parts += ["", table(("near miss", "role", "why it is not a site"), near)]
    return parts


def _row(site: Site) -> tuple[object, ...]:
    return (
        site.path,
        site.role,
        _by(site.input_shape),
        _by(site.output_shape) if site.output_shape != site.input_shape else "same",
        str(site.facts),
        site.stage,
        _by(site.grid),
        site.prefix_tokens or "",
        f"{site.parameters:,}",
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)
