"""Long texts on one short line."""

from at2.printable import printable

_END_SHARE = 3
"""One part in so many of a shortened text is its end."""


def shortened(text: str, length: int) -> str:
    """The text on one line, with `…` for what is left out of the middle of a long one.

    Args:
        length: characters at most.
    """
    line = printable(" ".join(text.split()))
    if len(line) <= length:
        return line
    end = (length - 1) // _END_SHARE
    start = length - 1 - end
    return f"{line[:start].rstrip()}…{line[len(line) - end :].lstrip()}"
