"""Tables with known keys: values of the right type, in their range, and no key too many."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from outboard_worker.failure import Failure, invalid

# Gives what is wrong with a value, as in "`out` is 0, but must be ..."; nothing if it is right.
Check = Callable[[Any], str | None]

REQUIRED: Any = object()


def whole(least: int = 0, most: int = 2**63 - 1) -> Check:
    """A whole number."""
    right = f"a whole number of at least {least}"

    def check(value: Any) -> str | None:
        good = isinstance(value, int) and not isinstance(value, bool)
        return None if good and least <= value <= most else right

    return check


def number(right: str, holds: Callable[[float], bool]) -> Check:
    """A finite number that a condition holds for."""

    def check(value: Any) -> str | None:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        return None if good and math.isfinite(value) and holds(value) else right

    return check


def flag(value: Any) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else "true or false"


def one_of(*names: str) -> Check:
    """One of some names."""
    right = " or ".join(f'"{name}"' for name in names)
    return lambda value: None if value in names else right


def optional(check: Check) -> Check:
    """A value that may be null."""
    return lambda value: None if value is None else check(value)


def each(check: Check, length: int | None = None) -> Check:
    """A list of such values."""

    def of(value: Any) -> str | None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            return "a list" if length is None else f"a list of {length}"
        return next((f"a list, each {wrong}" for wrong in map(check, value) if wrong), None)

    return of


def anything(_: Any) -> str | None:
    """Checked elsewhere."""
    return None


ABOVE_ZERO = number("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda x: x >= 0)
SHARE = number("at least 0 and below 1", lambda x: 0 <= x < 1)


def read(
    table: Any, keys: Mapping[str, tuple[Any, Check]], where: str, key: str = ""
) -> dict[str, Any]:
    """The values of a table by key, each with its default, in the order of `keys`.

    `where` begins the message of an error; `key` is what the table is called.
    """
    if not isinstance(table, dict):
        raise invalid(f"{where}: {table!r} is no table", key or None)
    path = f"{key}." if key else ""
    for name in table:
        if name not in keys:
            raise unknown(f"{where}: the key `{name}`", name, keys).at("key", f"{path}{name}")
    found = {}
    for name, (default, check) in keys.items():
        value = table.get(name, default)
        if value is REQUIRED:
            raise invalid(f"{where}: `{name}` is missing", f"{path}{name}", f"add `{name}`")
        right = check(value) if name in table else None
        if right is not None:
            text = f"{where}: `{name}` is {value!r}, but must be {right}"
            raise invalid(text, f"{path}{name}", f"set it to {right}")
        found[name] = value
    return found


def unknown(what: str, name: str, known: Mapping[str, Any]) -> Failure:
    """Something that isn't known, with the nearest that is."""
    nearest = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known are {', '.join(known) or 'none'}"
    return invalid(f"{what} is unknown", hint=hint)


def typed(spec: Any) -> dict[str, Any]:
    """A table with the key `type`; its name alone is short for it."""
    return {"type": spec} if isinstance(spec, str) else spec
