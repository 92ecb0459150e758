"""``dcnify recipe``: list, show, copy and check recipes, and the JSON Schema of their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dcnify.cli.flatten import verb, verbs
from dcnify.cli.options import OverridesSpec, Overwrite
from dcnify.cli.output import complain, table
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError
from dcnify.files import check_file, write_file

if TYPE_CHECKING:
    from dcnify.recipe import Builtin, StagePreset

app = verbs("List, show, copy and check recipes.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a built-in recipe.")]
NameOrPath = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A built-in recipe, a stage preset, or the path of a YAML file."
    ),
]


@app.command("ls")
@verb
def ls(terminal: Terminal) -> None:
    """List the built-in recipes, and the stages that their fine-tuning can name.

    With --json, one list: "kind" is "recipe" or "stage", and a stage has no sha256.

    \b
    $ dcnify recipe ls
    name           what it swaps
    convnext       Every 7x7 depthwise convolution of a ConvNeXt-like model.
    ...
    """
    from dcnify.recipe import Recipe, builtins, stage_presets

    recipes, stages = builtins().values(), stage_presets().values()

    def listed(kind: str, found: Builtin | StagePreset) -> dict[str, str]:
        return {"name": found.name, "summary": found.summary, "kind": kind}

    terminal.emit(
        [listed("recipe", r) | {"sha256": Recipe.load(r.name).sha256} for r in recipes]
        + [listed("stage", stage) for stage in stages],
        lambda: [
            table(["name", "what it swaps"], [(r.name, r.summary) for r in recipes]),
            "",
            table(["stage", "what it trains"], [(s.name, s.summary) for s in stages]),
        ],
    )


@app.command("show")
@verb
def show(
    name: NameOrPath,
    changes: OverridesSpec,
    terminal: Terminal,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every default written out, comments left out.")
    ] = False,
) -> None:
    """Print a recipe, or a stage of fine-tuning: as it is written, or resolved.

    With --set or --json it is always the resolved one.

    \b
    $ dcnify recipe show convnext
    $ dcnify recipe show convnext --set swaps.dw7.replace.kernel_size=5
    $ dcnify recipe show align
    """
    from dcnify import recipe as room

    stage = room.stage_presets().get(name)
    found = (
        room.load_finetune(name, changes.overrides).stages[0]
        if stage
        else room.Recipe.load(name, changes.overrides)
    )
    if resolved or changes.overrides or terminal.as_json:
        terminal.emit(room.resolved(found), lambda: room.to_yaml(found).rstrip("\n"))
    else:
        print(stage.text if stage else room.source_text(name)[0], end="")


@app.command("copy")
@verb
def copy(
    name: Name,
    files: Overwrite,
    terminal: Terminal,
    dest: Annotated[
        Path | None,
        typer.Argument(metavar="DEST", help="File or folder to write. Default: ./NAME.yaml"),
    ] = None,
) -> None:
    """Copy a built-in recipe to start your own.

    \b
    $ dcnify recipe copy convnext my.yaml
    my.yaml
    $ dcnify plan timm:convnext_tiny -r my.yaml
    """
    from dcnify.recipe import builtin

    found = builtin(name)
    path = dest or Path(f"{name}.yaml")
    if path.is_dir():
        path = path / f"{name}.yaml"
    _write(path, found.text, files.overwrite)
    terminal.emit({"recipe": name, "path": str(path)}, lambda: str(path))
    terminal.say(f"next: edit it, then run 'dcnify recipe validate {path}'")


@app.command("validate")
@verb
def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="YAML files to check.")],
    changes: OverridesSpec,
    terminal: Terminal,
) -> None:
    """Check recipe files; no model needed.

    Each invalid recipe is one line on stderr with its place, and the exit code is 2. With --json
    all results, valid or not, are on stdout.

    \b
    $ dcnify recipe validate my.yaml
    error: my.yaml:29:7: unknown key 'kernal_size', did you mean 'kernel_size'?
    """
    from dcnify.recipe import Recipe

    results: list[dict[str, Any]] = []
    for path in paths:
        try:
            recipe = Recipe.load(path, changes.overrides)
            said = {"name": recipe.name, "swaps": len(recipe.swaps), "sha256": recipe.sha256}
            results.append({"path": path, "valid": True, **said})
        except InputError as error:
            results.append({"path": path, "valid": False, "error": str(error)})
    good = [r for r in results if r["valid"]]
    if terminal.as_json or good:
        rows = [(r["path"], r["name"], r["swaps"]) for r in good]
        terminal.emit(results, lambda: table(["valid recipe", "name", ">swaps"], rows))
    for result in results:
        if not result["valid"]:
            complain(result["error"])
    if len(good) < len(results):
        raise typer.Exit(2)


@app.command("schema")
@verb
def schema(
    files: Overwrite,
    terminal: Terminal,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there instead of to stdout."),
    ] = None,
) -> None:
    """Print the JSON Schema, for editors.

    With it, an editor completes keys, explains them and marks mistakes while you type.

    \b
    $ dcnify recipe schema -o recipe.schema.json

    Then, as the first line of a recipe, for editors with yaml-language-server:

    \b
    # yaml-language-server: $schema=recipe.schema.json
    """
    from dcnify.recipe import schema as recipe_schema

    text = json.dumps(recipe_schema(), indent=2)
    if output is None:
        print(text)
        return
    _write(output, f"{text}\n", files.overwrite)
    terminal.emit({"path": str(output)}, lambda: str(output))
    terminal.say(f"name it in a recipe's first line: # yaml-language-server: $schema={output}")


def _write(path: Path, text: str, overwrite: bool) -> None:
    check_file(path, overwrite)
    write_file(path, lambda place: place.write_text(text, "utf-8"), overwrite)
