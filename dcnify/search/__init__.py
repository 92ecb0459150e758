"""Search for the layers to swap within a budget.

The package itself can be called: ``dcnify.search("model.pt", "latency<=0.8", output="runs/x")``.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcnify.lazy import load_on_use
from dcnify.search.spec import SearchSpec

if TYPE_CHECKING:
    from dcnify.search.call import search
    from dcnify.search.choose.budget import Bound, parse_budget
    from dcnify.search.result import Candidate, ChosenSet, Round, SearchResult

__all__ = [
    "Bound",
    "Candidate",
    "ChosenSet",
    "Round",
    "SearchResult",
    "SearchSpec",
    "parse_budget",
    "search",
]

__getattr__ = load_on_use(__name__)


class _Callable(ModuleType):
    """A package that is a function too: `dcnify.search` is the name of both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dcnify.search.call import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
