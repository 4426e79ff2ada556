"""The files of the page at `/`: plain HTML, CSS and ES modules, served as they are.

Everything in it talks to this server's own REST API, and nothing is loaded from elsewhere. Knows
nothing of routes.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

INDEX = "index.html"

_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """One file of the page.

    Attributes:
        content: its bytes, UTF-8.
        media_type: what it is.
        etag: changes with the content, in quotes as HTTP wants it.
    """

    content: bytes
    media_type: str
    etag: str


@cache
def assets() -> dict[str, Asset]:
    """All files by name, read once."""
    assets_by_name = {}
    for file in files(__name__).iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _MEDIA_TYPES:
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            assets_by_name[file.name] = Asset(content, _MEDIA_TYPES[suffix], etag)
    return assets_by_name
