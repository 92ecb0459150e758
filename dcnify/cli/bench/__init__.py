"""dcnify bench: time the operator or a model; a file for each of its verbs."""

from __future__ import annotations

import typer

from dcnify.cli.bench.model import model
from dcnify.cli.bench.op import op

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Time the operator, or a converted model, against what it replaces.",
)
app.command("op")(op)
app.command("model")(model)
