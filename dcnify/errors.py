"""What a person can cause, each with the exit code the command line answers."""


class DcnifyError(Exception):
    """A problem worth one line. ``str(error)`` is that line: what, where, the nearest fix."""

    exit_code = 1


class InputError(DcnifyError, ValueError):
    """The user's input is wrong: a recipe, an argument, a file."""

    exit_code = 2


class CheckError(DcnifyError):
    """The input was fine, but an ``expect``, ``require`` or verification was not met."""

    exit_code = 3
