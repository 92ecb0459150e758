"""One decorator turns the specs that a verb takes into options of the command line."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from dcnify.errors import InputError
from dcnify.spec import Option, Spec, flags_of


@dataclass(frozen=True)
class Offer:
    """How a verb offers a spec where that differs from the spec's own declaration.

    Write ``source: Annotated[SourceSpec, Offer(argument="source")]``. Fields of a spec inside the
    spec are named with a dot: ``images.image_count``.
    """

    argument: str = ""
    """The field that is a positional argument."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Other flags, by field."""
    help: Mapping[str, str] = field(default_factory=dict)
    """Other help texts, by field."""
    without: tuple[str, ...] = ()
    """Fields that keep their defaults."""


@dataclass(frozen=True)
class _Leaf:
    """A field of a spec, or of a spec inside it, that becomes a parameter."""

    path: str
    kind: Any
    default: Any
    option: Option

    @property
    def flags(self) -> tuple[str, ...]:
        return flags_of(self.path.rpartition(".")[2], self.option)

    @property
    def flag(self) -> str:
        return max(self.flags, key=len)

    @property
    def name(self) -> str:
        """The parameter's name in Python; leaves with the same flag share it."""
        return "option" + self.flag.replace("-", "_")

    def parameter(self, argument: bool) -> inspect.Parameter:
        required = self.default is MISSING
        default = None if self.default == () else self.default
        shown = not required and default is not None
        words: dict[str, Any] = {"help": self.option.help, "metavar": self.option.metavar}
        info = typer.Argument(**words) if argument else typer.Option(*self.flags, **words)
        info.show_default = shown
        info.min, info.max = self.option.least, self.option.most
        kind = list[str] | None if get_origin(self.kind) is tuple else self.kind
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else default,
            annotation=Annotated[kind, info],
        )


@dataclass(frozen=True)
class _Group:
    """A parameter of a verb that receives a spec."""

    spec: type[Spec]
    optional: bool
    offer: Offer

    @cached_property
    def leaves(self) -> dict[str, _Leaf]:
        """The fields that are offered, by path."""
        return {leaf.path: leaf for leaf in self._find(self.spec, self.optional)}

    def _find(
        self, spec: type[Spec], optional: bool, prefix: str = "", outer: Option | None = None
    ) -> Iterator[_Leaf]:
        hints, lead = get_type_hints(spec), _lead(spec)
        every = fields(spec)  # type: ignore[arg-type]  # every subclass of Spec is a dataclass
        for one in sorted(every, key=lambda one: one.name not in spec.__annotations__):
            path, words, hint = prefix + one.name, one.metadata["option"], hints[one.name]
            if path in self.offer.without:
                continue
            inner, may_be_none = _spec_of(hint)
            if inner is not None:
                yield from self._find(inner, may_be_none, f"{path}.", words)
                continue
            default = one.default
            if one.name == lead and optional:
                hint, default = hint | None, None
            if one.name == lead and outer is not None and outer.flags:
                words = outer
            flags = (self.offer.flags[path],) if path in self.offer.flags else words.flags
            help = self.offer.help.get(path, words.help)
            yield _Leaf(path, hint, default, replace(words, help=help, flags=flags))

    def build(self, values: Mapping[str, Any]) -> Spec | None:
        """Assemble the spec from the values of all parameters."""
        return self._build(self.spec, self.optional, values)

    def _build(
        self, spec: type[Spec], optional: bool, values: Mapping[str, Any], prefix: str = ""
    ) -> Spec | None:
        lead = self.leaves.get(prefix + _lead(spec)) if optional else None
        if lead is not None and values[lead.name] is None:
            self._refuse_rest(lead, prefix, values)
            return None
        hints: dict[str, Any] = get_type_hints(spec)
        given: dict[str, Any] = {}
        for one in fields(spec):  # type: ignore[arg-type]  # as above
            path = prefix + one.name
            inner, may_be_none = _spec_of(hints[one.name])
            if path in self.offer.without:
                continue
            if inner is not None:
                given[one.name] = self._build(inner, may_be_none, values, f"{path}.")
            else:
                value = values[self.leaves[path].name]
                is_tuple = get_origin(hints[one.name]) is tuple
                given[one.name] = tuple(value or ()) if is_tuple else value
        return spec(**given)

    def _refuse_rest(self, lead: _Leaf, prefix: str, values: Mapping[str, Any]) -> None:
        outside = (leaf for leaf in self.leaves.values() if not leaf.path.startswith(prefix))
        elsewhere = {leaf.name for leaf in outside}
        for leaf in self.leaves.values():
            if leaf.name not in elsewhere and values[leaf.name] not in (leaf.default, None, []):
                raise InputError(
                    f"{leaf.flag} needs {lead.flag} {lead.option.metavar or ''}".strip()
                )


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make a typer command of a function that takes specs: their fields become options.

    A parameter annotated with a `Spec`, perhaps with an `Offer`, receives that spec. If it may be
    None, its first required field decides, and its other options are refused without that one.
    Fields with the same flag share one option, also across specs.
    """
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, _Group] = {}
    for one in inspect.signature(function, eval_str=True).parameters.values():
        kind, *extras = (
            get_args(one.annotation)
            if get_origin(one.annotation) is Annotated
            else [one.annotation]
        )
        spec, optional = _spec_of(kind)
        if spec is None:
            parameters[one.name] = one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        offer = next((extra for extra in extras if isinstance(extra, Offer)), Offer())
        groups[one.name] = group = _Group(spec, optional, offer)
        for leaf in group.leaves.values():
            parameters.setdefault(leaf.name, leaf.parameter(leaf.path == offer.argument))

    def run(**values: Any) -> None:
        own = {name: value for name, value in values.items() if not name.startswith("option__")}
        function(**own, **{name: group.build(values) for name, group in groups.items()})

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {name: one.annotation for name, one in parameters.items()}
    return run


def verbs(help: str) -> typer.Typer:
    """An app for a verb that has verbs of its own."""
    options: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None}
    return typer.Typer(no_args_is_help=True, help=help, **options)


def _spec_of(kind: Any) -> tuple[type[Spec] | None, bool]:
    """The spec that a type names, and whether None may stand for it."""
    options = get_args(kind) or (kind,)
    found = (one for one in options if isinstance(one, type) and issubclass(one, Spec))
    return next(found, None), type(None) in options


def _lead(spec: type[Spec]) -> str:
    """The first required field of a spec."""
    required = (one.name for one in fields(spec) if one.default is MISSING)  # type: ignore[arg-type]  # as above
    return next(required, "")
