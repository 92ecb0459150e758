"""What goes wrong, as one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from difflib import get_close_matches

import typer

from dcnify.cli.output import complain
from dcnify.errors import DcnifyError

INTERRUPTED = 130

# typer brings its own copy of click since 0.26 and depends on click before; both derive from this.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]


@dataclass
class Session:
    """What one run of the command line remembers."""

    debug: bool = False


def report(error: BaseException, *, debug: bool) -> int:
    """Say what went wrong and return the exit code. With ``debug`` the traceback comes first."""
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


def _usage(error: Exception) -> int:
    """A misspelt verb or option, a missing argument: click's words, one line, the nearest fix."""
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    context = getattr(error, "ctx", None)
    words = error.format_message().strip().rstrip(".")
    if (option := getattr(error, "option_name", None)) and "No such option" in words:
        words = f"no such option {option!r}" + _nearest(option, _options(context))
    elif words.startswith("No such command") and context and len(words.split("'")) > 1:
        name = words.split("'")[1]
        verbs = list(getattr(context.command, "commands", {}))
        words = f"no such command {name!r}" + (
            _nearest(name, verbs) or f"; there is {', '.join(verbs)}"
        )
    words = words[:1].lower() + words[1:]
    complain(f"{words} (see '{context.command_path} --help')" if context else words)
    return getattr(error, "exit_code", 2)


def _options(context: object) -> list[str]:
    command = getattr(context, "command", None)
    return [name for param in getattr(command, "params", ()) for name in param.opts] + ["--help"]


def _nearest(word: str, valid: list[str]) -> str:
    alike = [name for name in valid if name.startswith("-") == word.startswith("-")]
    matches = get_close_matches(word, alike)
    return f", did you mean {matches[0]!r}?" if matches else ""
