"""`python -m dcnify` is the `dcnify` command: launchers such as torchrun start modules."""

from dcnify.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
