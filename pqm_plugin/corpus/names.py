"""Help for a name that is not there."""

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return the known names nearest to `name`, or the first ones when none is near, as words for an error line."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=limit, cutoff=0.6)
    if near:
        return "nearest: " + ", ".join(near)
    if not names:
        return "there are none"
    return "there are: " + ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def some(names: Iterable[str], limit: int = 10) -> str:
    """Join the first names for a line of text, saying how many more there are."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
