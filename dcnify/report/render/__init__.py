"""Renderers of the view model: terminal, Markdown, HTML, and the drawings in them."""

from dcnify.report.render.generator import is_page
from dcnify.report.render.html import html
from dcnify.report.render.markdown import markdown
from dcnify.report.render.terminal import terminal

__all__ = ["html", "is_page", "markdown", "terminal"]
