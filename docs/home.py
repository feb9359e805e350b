"""A hook of MkDocs: the home page is README.md, and then what ``docs/index.md`` adds. Nothing has to be said twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
LINK = re.compile(r"\[([^]]*)\]\(([^):]+)\)")
"""A link without a scheme, or the image's: its words and its target."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for the source of each page."""
    return f"{as_page(README.read_text(encoding='utf-8'))}\n{markdown}" if page.file.src_uri == "index.md" else markdown


def as_page(readme: str) -> str:
    """README.md with its links as seen from ``docs/``; of a file outside of it, which the site does not have, the words alone."""

    def link(found: re.Match) -> str:
        words, target = found.groups()
        return f"[{words}]({target.removeprefix('docs/')})" if target.startswith("docs/") else words

    return LINK.sub(link, readme)
