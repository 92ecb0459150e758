"""``python -m dcnify``: what ``torchrun -m`` and ``accelerate launch -m`` start."""

from dcnify.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
