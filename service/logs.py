"""What the server writes about itself: one line per event, as JSON or as text, without user text.

A request's line gathers facts from wherever they arise: `note(prompt_tokens=82)` anywhere below
the request adds to it. What users wrote goes through `note_text` and is written only if the
operator asked for that. Knows nothing of HTTP.
"""

import json
import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

Fact = str | int | float | bool | None

LogFormat = Literal["auto", "json", "text"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_TELLING_ERRORS = (OSError, MemoryError, RuntimeError)
"""Their messages speak of the machine ("CUDA error", "no space left"); those of other exceptions
(a KeyError, a UnicodeDecodeError) may quote what a user sent."""

_TOLD_APART = 80
"""Characters by which messages differ, if they do."""

_REMEMBERED = 1000
"""Different messages; far more than there are in the code."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


@dataclass(frozen=True)
class RequestNotes:
    """What has been noted of one request so far."""

    request_id: str
    facts: dict[str, Fact] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


_current: ContextVar[RequestNotes | None] = ContextVar("at2_request_notes", default=None)


@contextmanager
def request_notes(request_id: str) -> Iterator[RequestNotes]:
    """Collect the notes of one request; log lines inside carry its id."""
    notes = RequestNotes(request_id)
    token = _current.set(notes)
    try:
        yield notes
    finally:
        _current.reset(token)


def note(**facts: Fact) -> None:
    """Add numbers and names that are not user text to this request's line; no request, no line."""
    notes = _current.get()
    if notes is not None:
        notes.facts.update(facts)


def note_text(**texts: str) -> None:
    """Add user text to this request's line, for operators who turned `AT2_LOG_TEXT` on."""
    notes = _current.get()
    if notes is not None:
        notes.texts.update(texts)


class OncePerMinute(logging.Filter):
    """Lets one of equal warnings or errors through a minute, with the number of those left out.

    What repeats is a message before its arguments are put in; one with a stack trace counts by the
    place where its exception was raised.
    """

    def __init__(self, seconds: float = 60.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._seen: dict[object, tuple[float, int]] = {}  # when let through, and left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is written."""
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        stack = error.__traceback__ if error is not None else None
        while stack is not None and stack.tb_next is not None:
            stack = stack.tb_next
        place = (stack.tb_frame.f_code.co_filename, stack.tb_lineno) if stack is not None else None
        key = (record.name, str(record.msg)[:_TOLD_APART], type(error), place)
        then, left_out = self._seen.get(key, (-math.inf, 0))
        now = time.monotonic()
        if now - then < self._seconds:
            self._seen[key] = (then, left_out + 1)
            return False
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if left_out:
            record.facts = getattr(record, "facts", {}) | {"left_out": left_out}
        return True


class _Formatter(logging.Formatter):
    """What both formats share: the parts of a line, and tracebacks that quote no user."""

    def __init__(self, *, log_text: bool) -> None:
        super().__init__()
        self._log_text = log_text

    def parts(self, record: logging.LogRecord) -> dict[str, Fact]:
        notes = _current.get()
        facts: dict[str, Fact] = getattr(record, "facts", {})
        moment = datetime.fromtimestamp(record.created, UTC)
        return {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": notes.request_id} if notes else {}),
            **facts,
        }

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 (logging's name)
        """The stack of an exception and of its causes, outermost cause first."""
        error: BaseException | None = ei[1]
        chain: list[str] = []
        while error is not None:
            told = self._log_text or isinstance(error, _TELLING_ERRORS)
            name = type(error).__qualname__ + (f": {error}" if told else "")
            chain.append("".join(traceback.format_tb(error.__traceback__)) + name)
            hidden = error.__suppress_context__
            error = error.__cause__ or (None if hidden else error.__context__)
        return "\n\n".join(reversed(chain))


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        parts = self.parts(record)
        if record.exc_info:
            parts["exception"] = self.formatException(record.exc_info)
        return json.dumps(parts, ensure_ascii=False, default=str)


class TextFormatter(_Formatter):
    """For a person at a terminal; a stack trace follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        parts = self.parts(record)
        head = [str(parts.pop(name)) for name in ("time", "level", "logger", "message")]
        tail = [f"{name}={value}" for name, value in parts.items() if value is not None]
        line = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(head + tail))
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(
    *,
    level: str,
    log_format: LogFormat = "auto",
    log_text: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send every logger of the process to one stream in one format.

    Args:
        level: of our loggers and uvicorn's; other libraries' stay at warnings.
        log_format: `auto` is text if the stream is a terminal, and JSON otherwise.
        log_text: whether messages of exceptions may quote users.
        stream: standard error by default.
    """
    stream = stream or sys.stderr
    if log_format == "auto":
        log_format = "text" if stream.isatty() else "json"
    formatter = (JsonFormatter if log_format == "json" else TextFormatter)(log_text=log_text)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(OncePerMinute())
    logging.basicConfig(level="WARNING", handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in ("at2", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    # its lines repeat paths and queries as they were sent
    logging.getLogger("uvicorn.access").setLevel(logging.CRITICAL)
