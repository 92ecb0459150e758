"""dcnify inspect: what could be swapped in a model."""

from __future__ import annotations

from dcnify.cli.options import AsJson, Quiet
from dcnify.cli.output import emit, say, table
from dcnify.cli.phases import phases
from dcnify.cli.sources import (
    Arch,
    InputSize,
    ModelArgs,
    Pretrained,
    SourceName,
    TrustCode,
    TrustPickle,
    UseEma,
    example_input,
    open_model,
)


def inspect(
    source: SourceName,
    arch: Arch = None,
    model_arg: ModelArgs = None,
    pretrained: Pretrained = False,
    use_ema: UseEma = False,
    trust_pickle: TrustPickle = False,
    trust_code: TrustCode = False,
    input_size: InputSize = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List every site of a model that a swap could replace, and the near misses with the reason.

    \b
    $ dcnify inspect timm:convnext_tiny
    $ dcnify inspect checkpoint.pth --arch vit_small_patch16_224 --json
    """
    from dcnify.graph import find_sites

    with phases("opening the model", quiet=quiet or as_json) as step:
        opened = open_model(
            source,
            arch=arch,
            model_args=model_arg,
            pretrained=pretrained,
            use_ema=use_ema,
            trust_pickle=trust_pickle,
            trust_code=trust_code,
            on_progress=lambda done, total, name: step(f"trying {name}", done, total),
        )
        step("capturing the graph", 0, 1)
        example = example_input(opened, input_size)
        sites = find_sites(opened.model, example)
    for note in opened.notes:
        say(note, quiet=quiet)
    data = {
        "source": source,
        "architecture": opened.base.name,
        "input": list(example.shape),
        "sites": [site.to_dict() for site in sites],
        "near_misses": [miss.to_dict() for miss in sites.near_misses],
    }
    emit(as_json, data, lambda: _render(source, sites))


def _render(source: str, sites) -> list:
    rows = [
        (
            site.path,
            site.role,
            _by(site.input_shape),
            _by(site.output_shape) if site.output_shape != site.input_shape else "same",
            _what(site),
            site.stage,
            _by(site.grid),
            site.prefix_tokens or "",
            f"{site.parameters:,}",
        )
        for site in sites
    ]
    columns = ("site", "role", "input", "output", "kernel or heads", "stage", "grid", "prefix")
    parts: list = [table((*columns, ">params"), rows)] if rows else []
    roles: dict[str, int] = {}
    for site in sites:
        roles[site.role] = roles.get(site.role, 0) + 1
    found = ", ".join(f"{count} {role}" for role, count in roles.items()) or "no sites"
    parts += ["" if rows else None, f"{source}: {found}"]
    if sites.near_misses:
        near = [(miss.path or "(model)", miss.role, miss.reason) for miss in sites.near_misses]
        parts += ["", table(("near miss", "role", "why it is not a site"), near)]
    return [part for part in parts if part is not None]


def _what(site) -> str:
    if site.kernel is None:
        return f"{site.heads} heads"
    text = _by(site.kernel)
    if site.stride != (1, 1):
        text += f" stride {_by(site.stride) if len(set(site.stride)) > 1 else site.stride[0]}"
    if site.dilation != (1, 1):
        text += f" dilation {_by(site.dilation)}"
    return text


def _by(shape) -> str:
    return "x".join(str(n) for n in shape)
