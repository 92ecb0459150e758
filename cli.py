"""Launcher: `python cli.py` in a checkout is the `dcnify` command, installed or not."""

import sys
from pathlib import Path


def use_checkout() -> None:
    """Import dcnify from this checkout, with ``kernels/`` and ``recipes/`` as its sub-packages.

    Installing maps those two folders into the package; a bare checkout has to be told.
    """
    root = str(Path(__file__).resolve().parent)
    sys.path.insert(0, root)
    import dcnify

    dcnify.__path__.append(root)
    while root in sys.path:  # or `kernels` and `tests` here would hide packages of those names
        sys.path.remove(root)


use_checkout()  # not under the guard below: worker processes that are spawned import this file too

if __name__ == "__main__":
    from dcnify.cli import main

    raise SystemExit(main())
