"""The app: the list of verbs, and how an exception becomes one line and an exit code.

Adding a verb takes two steps: a file ``dcnify/cli/NAME.py`` and a line in `VERBS`. The file has a
function ``NAME`` under the decorator `dcnify.cli.flatten.verb`, or an ``app = typer.Typer()`` for a
verb with verbs of its own (see ``recipe.py``). The function takes its room's specs, whose fields
become the options, and a `dcnify.cli.terminal.Terminal`, through which it prints. It checks what
it can, and then imports its room. The file itself is imported only when the verb is asked for, so
help stays fast.

A verb returns nothing. To fail it raises a `DcnifyError`, or ``typer.Exit(code)`` once it has
printed why. ``--debug`` is added to every verb.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from dcnify._version import __version__
from dcnify.cli.failure import INTERRUPTED, Session, report

VERBS = {
    "inspect": ("dcnify.cli.inspect", "List the sites of a model, and the near misses."),
    "plan": ("dcnify.cli.plan", "Show what a recipe would do to a model; changes nothing."),
    "convert": ("dcnify.cli.convert", "Swap what a recipe selects and write an artifact."),
    "verify": ("dcnify.cli.artifact.verify", "Recompute what an artifact claims."),
    "finetune": ("dcnify.cli.finetune", "Train a converted model, stage by stage."),
    "run": ("dcnify.cli.run", "Convert, fine-tune, time and report in one go."),
    "recipe": ("dcnify.cli.recipe", "List, show, copy and check recipes."),
    "ablate": ("dcnify.cli.ablate", "Try variants of a recipe, measure each, and compare."),
    "search": ("dcnify.cli.search", "Choose which layers to swap within a budget."),
    "report": ("dcnify.cli.pages.report", "Show an artifact, a run or an ablation as one page."),
    "offsets": ("dcnify.cli.pages.offsets", "Draw where deformable layers sample in a photograph."),
    "diff": ("dcnify.cli.pages.diff", "Say what differs between two artifacts or two recipes."),
    "export": ("dcnify.cli.artifact.export", "Write a model as ONNX or as a PyTorch program."),
    "bench": ("dcnify.cli.bench", "Time the operator or a model against what it replaces."),
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, whatever is raised inside."""
    session = Session()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # never fail on a character the terminal lacks
            stream.reconfigure(errors="backslashreplace")
    _take_sigterm()
    try:
        args = list(sys.argv[1:] if argv is None else argv)
        code = root().main(args, prog_name="dcnify", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except SystemExit as error:  # rich and typer, when nobody reads their output any more
        return error.code if isinstance(error.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:
        return report(error, debug=session.debug)
    if code == INTERRUPTED:
        return report(KeyboardInterrupt(), debug=False)
    return code if isinstance(code, int) else 0


def _take_sigterm() -> None:
    """Let SIGTERM, a scheduler's way to end a process, clean up as Ctrl-C does."""
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a forked worker
        os.kill(os.getpid(), number)

    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def root() -> TyperGroup:
    """The whole app as a click group."""
    app = typer.Typer(
        name="dcnify",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        help="Replace depthwise convolutions and attention in trained vision models with DCNv4.",
        epilog="Exit codes: 0 done, 2 the input is wrong, 3 a check was not met, 1 anything else.",
    )
    app.callback()(_root)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, (module, summary) in VERBS.items():
        group.add_command(Verb(name, module, summary))
    return group


class Verb(TyperCommand):
    """Stands in the group for a verb; becomes the verb itself once that is asked for."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self.module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """Import the verb's file, and return its click command or group."""
        module = importlib.import_module(self.module)
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(self.name)(getattr(module, str(self.name).replace("-", "_")))
        command = get_command(app)
        command.name = self.name
        _add_debug(command)
        return command


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dcnify {__version__}")
        raise typer.Exit


def _remember_debug(context: typer.Context, wanted: bool) -> None:
    if wanted and isinstance(context.obj, Session):
        context.obj.debug = True


_Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]
_Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=_remember_debug, is_eager=True, help="Print a traceback on errors."
    ),
]


def _root(version: _Version = False, debug: _Debug = False) -> None:
    """Accept options in front of a verb; the callbacks do the work."""


def _add_debug(command: Any) -> None:
    """Give a verb, and every verb beneath it, the option ``--debug``."""

    def only_debug(debug: _Debug = False) -> None: ...

    if not any("--debug" in param.opts for param in command.params):
        carrier = typer.Typer(add_completion=False)
        carrier.command()(only_debug)
        option = get_command(carrier).params[0]
        option.expose_value = False
        command.params.append(option)
    for below in getattr(command, "commands", {}).values():
        _add_debug(below)
