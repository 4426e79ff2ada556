"""Other people's text on a terminal: shown, and never obeyed."""

import re

_PICTURES = {
    **{chr(code): chr(0x2400 + code) for code in range(0x20)},
    "\x7f": "\N{SYMBOL FOR DELETE}",
}

_STEERING = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, a carriage return that ends no line, and what reverses the direction."""


def printable(text: str) -> str:
    """The text with what could steer a terminal shown: ␛ for an escape, � where there is no sign.

    Tabs and line ends stay, and so does the length.
    """
    return _STEERING.sub(lambda found: _PICTURES.get(found[0], "\N{REPLACEMENT CHARACTER}"), text)


def printable_json(text: str) -> str:
    """JSON that says the same, with what could steer a terminal in escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
