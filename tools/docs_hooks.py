"""What mkdocs does with links that lead out of docs/: into the checkout, which a site does not have."""

import re

_LINK = re.compile(r"(?<!!)\[([^]]+)\]\(\.\./([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Write such a link as its text and the path, to be looked up in the checkout."""
    return _LINK.sub(_in_words, markdown)


def _in_words(link: re.Match[str]) -> str:
    text, path = link[1], link[2]
    return f"`{path}`" if text.strip("`") in (path, path.rpartition("/")[2]) else f"{text} (`{path}`)"
