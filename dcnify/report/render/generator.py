"""The mark that a page bears, by which it is known as one of ours and may be replaced."""

from pathlib import Path

from dcnify._version import __version__

GENERATOR = f"dcnify {__version__}"
_LONGEST = 2**26


def is_page(path: Path) -> bool:
    """Whether a file is a page that a dcnify wrote, of whatever version."""
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST:
            return False
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return '<meta name="generator" content="dcnify ' in text or "<!-- dcnify " in text[-100:]
