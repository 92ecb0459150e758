"""The command line: one file per verb. `main` is what ``dcnify`` runs."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on ``argv`` (default: the process's) and return its exit code."""
    import os

    from dcnify.cli.app import run

    # OpenMP threads that wait should sleep: spinning starves everybody on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(argv)
