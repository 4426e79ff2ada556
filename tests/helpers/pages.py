"""Pages as tests read them, and texts that try to be more than text on a page."""

from html.parser import HTMLParser
from typing import Any

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</mark></p><style>*{display:none}</style>",
    "<!-- -->]]> &amp; &lt;b&gt; {{ 7*7 }} {% raw %} ${x} \u2028 \u202e",
    "' onmouseover='alert(1)",
]
"""Texts of users that must stay text."""


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text in some of them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]
