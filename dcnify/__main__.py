"""`python -m dcnify` is the `dcnify` command, for launchers that start modules, as torchrun does."""

from dcnify.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
