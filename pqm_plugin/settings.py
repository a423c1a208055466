"""Read options from YAML, JSON and the command line into frozen dataclasses."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pqm_plugin.errors import PqmError

_KEY = "key"
_SHOWN = 80
_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path"}


def named(key: str, default: Any) -> Any:
    """A field that files call `key`."""
    return dataclasses.field(default=default, metadata={_KEY: key})


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file of names and values; `what` says in an error which kind of file it should be.

    Raises:
        PqmError: if it is missing or something else; an empty file has no values.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PqmError(f"{path} is missing: give {what}") from None
    except OSError as error:
        raise PqmError(f"{path} cannot be read ({error.strerror}): give {what}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PqmError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PqmError(f"{path} must map option names to values: give {what}")
    return values


def fill[T](cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass `cls` from names and values over its defaults; they may be untrusted.

    Nested dataclasses are filled likewise. Lists become tuples, and text that spells a number becomes one where a
    number is wanted: YAML reads 1e-3 as text, for it wants a dot before the exponent. An element of a dataclass with
    a class method `from_text` may be text instead.

    Raises:
        PqmError: with `where`, for an unknown name (it tells the nearest), or a value of the wrong kind or range.
    """
    if not isinstance(values, Mapping):
        raise PqmError(f"{where}: expected names and values, got {_shown(values)}")
    fields = {name_of(field): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    kinds = typing.get_type_hints(cls)
    found = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(str(name)[:_SHOWN], fields, n=1, cutoff=0.0)
            raise PqmError(
                f"{where}: unknown name {_shown(name)}; did you mean {near[0]!r}? Known: {', '.join(fields)}"
            )
        found[fields[name].name] = _value(kinds[fields[name].name], value, f"{where}: {name}")
    try:
        return cls(**found)
    except ValueError as error:
        raise PqmError(f"{where}: {error}") from error


def over[T](options: T, given: Mapping[str, Any]) -> T:
    """The options with what a command line gave in place; None is what was not given.

    Raises:
        PqmError: if a value is out of range.
    """
    try:
        return dataclasses.replace(
            options,  # type: ignore[type-var]
            **{name: value for name, value in given.items() if value is not None},
        )
    except ValueError as error:
        raise PqmError(str(error)) from error


def from_text(kind: Any) -> Callable[[str], Any]:
    """What makes a value of the type of a field from the text of a command line; words of a list are separated by
    blanks or commas, and an empty path is none.
    """
    if typing.get_origin(kind) is tuple:
        element = from_text(typing.get_args(kind)[0])

        def values(text: str) -> tuple[Any, ...]:
            return tuple(element(word) for word in text.replace(",", " ").split())

        return values
    if kind is bool:
        return _truth
    if kind in (int, float, str):
        found: Callable[[str], Any] = kind
        return found

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return path


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def name_of(field: "dataclasses.Field[Any]") -> str:
    """What files call a field."""
    return str(field.metadata.get(_KEY, field.name))


def as_dict(options: Any) -> dict[str, Any]:
    """Plain values for JSON and YAML, tuples as lists; an option that came later only if it is not at its default."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if not (field.metadata.get("later") and value == field.default):
            plain = list(value) if isinstance(value, tuple) else value
            found[name_of(field)] = as_dict(value) if dataclasses.is_dataclass(value) else plain
    return found


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as one of the type `kind`: a plain one, a tuple, a dataclass, or one of several."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        wanted = [one for one in typing.get_args(kind) if _suits(one, value)] or [typing.get_args(kind)[0]]
        return _value(wanted[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise PqmError(f"{where}: {_shown(value)} is not a list")
        return tuple(_value(typing.get_args(kind)[0], one, where) for one in value)
    if dataclasses.is_dataclass(kind):
        short = getattr(kind, "from_text", None)
        return short(value) if short and isinstance(value, str) else fill(typing.cast("type[Any]", kind), value, where)
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)
        except (ValueError, OverflowError):
            raise PqmError(f"{where}: {_shown(value)} is not a number") from None
    of_kind = kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))
    if not of_kind or (isinstance(value, float) and not math.isfinite(value)):
        raise PqmError(f"{where}: {_shown(value)} is not {_KINDS.get(kind, getattr(kind, '__name__', str(kind)))}")
    return value


def _suits(kind: Any, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return typing.get_origin(kind) is tuple
    return typing.get_origin(kind) is None and isinstance(value, kind)


def _shown(value: Any) -> str:
    """A value in an error, of at most a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
