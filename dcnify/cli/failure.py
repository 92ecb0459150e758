"""Turn an exception into one line on stderr and an exit code."""

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import typer

from dcnify.cli.output import complain
from dcnify.errors import DcnifyError
from dcnify.words import did_you_mean

INTERRUPTED = 130

# typer brings its own copy of click since 0.26 and depends on click before; both derive from this.
ClickException: Any = typer.BadParameter.__mro__[2]


@dataclass
class Session:
    """State of one run of the command line."""

    debug: bool = False


def report(error: BaseException, *, debug: bool) -> int:
    """Print the error, after the traceback if ``debug``, and return the exit code."""
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__  # typer hides an EOFError, such as that of a truncated checkpoint
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    if isinstance(error, ClickException):
        return _usage(error)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, DcnifyError):
        complain(str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.errno and isinstance(error.filename, str):
        complain(f"{error.filename}: {(error.strerror or 'cannot be used').lower()}")
        return 2
    words = " ".join(str(error).split())
    words = words if len(words) <= 300 else f"{words[:297]}..."
    hint = "" if debug else " (run again with --debug for the traceback)"
    complain(f"unexpected {type(error).__name__}: {words}{hint}")
    return 1


def _usage(error: Any) -> int:
    """Print an error in the arguments as one line with the nearest fix, and return the code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    words = error.format_message().strip().rstrip(".")
    if (option := getattr(error, "option_name", None)) and "No such option" in words:
        words = f"no such option {option!r}" + did_you_mean(option, _options(context, option))
    elif words.startswith("No such command") and context and len(words.split("'")) > 1:
        name = words.split("'")[1]
        verbs = list(getattr(context.command, "commands", {}))
        otherwise = f"; there is {', '.join(verbs)}"
        words = f"no such command {name!r}" + did_you_mean(name, verbs, otherwise=otherwise)
    words = words[:1].lower() + words[1:]
    complain(f"{words} (see '{context.command_path} --help')" if context else words)
    return getattr(error, "exit_code", 2)


def _options(context: object, near: str) -> list[str]:
    """The options of a command that are long or short, as ``near`` is."""
    params = getattr(getattr(context, "command", None), "params", ())
    names = [*(name for param in params for name in param.opts), "--help"]
    dashes = near[: 1 + near.startswith("--")]
    return [name for name in names if name.startswith(dashes)]
