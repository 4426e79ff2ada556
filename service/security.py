"""Who may call, from where, and what an answer tells a browser. Knows nothing of models.

Only what every installation serves alike is open without a key: health, readiness, the page and
the documentation. Everything else is closed as long as it is not named here.
"""

import hashlib
import hmac
import logging
import re
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from service.settings import Settings

logger = logging.getLogger("at2.service")

OPEN_PATHS = frozenset({"/", "/docs", "/health", "/openapi.json", "/ready"})
"""Served without a key: they hold nothing of anybody's, and probes and browsers send none."""

OPEN_PREFIXES = ("/page/", "/static-offline-docs/")
"""Scripts and styles of the page and of the documentation."""

METRICS_PATH = "/metrics"

MIN_KEY_LENGTH = 16
"""Characters of the shortest key taken; a shorter one can be guessed over the network."""

_KEY = re.compile(r"[\x21-\x7e]+")
_PORT = re.compile(r":\d*$")
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_ORIGIN = re.compile(r"https?://[^/\s,*]+|\*")


_LOOK_SECONDS = 1.0
"""How often a file of keys is looked at, at most."""

_ID_LENGTH = 12
"""Hexadecimal digits of a key's id."""


@dataclass(frozen=True)
class ApiKeys:
    """The keys that are taken, as SHA-256 digests: no key itself stays in memory."""

    digests: tuple[bytes, ...]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The keys of `api_keys` and of `api_keys_file` together.

        Raises:
            ValueError: the file cannot be read, no key is in it, or a key is short or unprintable.
                The message names the setting and never the key.
        """
        digests = []
        if settings.api_keys is not None:
            digests += _digests("AT2_API_KEYS", settings.api_keys.get_secret_value().split(","))
        if settings.api_keys_file is not None:
            try:
                lines = settings.api_keys_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise ValueError(f"AT2_API_KEYS_FILE={settings.api_keys_file}: {reason}") from error
            lines = [line for line in lines if not line.lstrip().startswith("#")]
            digests += _digests(f"AT2_API_KEYS_FILE={settings.api_keys_file}", lines)
        return cls(tuple(dict.fromkeys(digests)))

    def __bool__(self) -> bool:
        return bool(self.digests)

    def accept(self, key: str) -> bool:
        """Whether this is one of the keys, in a time that depends on none of them."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self.digests]
        return any(matches)


class Keyring:
    """The keys as they are now: a file of keys is read again when it has changed.

    Args:
        settings: where they are.

    Raises:
        ValueError: as `ApiKeys.of`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._state = self._look()
        self._keys = ApiKeys.of(settings)
        self._next_look = 0.0

    def __bool__(self) -> bool:
        return bool(self._keys)

    def accept(self, key: str) -> str | None:
        """The id of a key, which tells nothing of it; None if it is not known here."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            self._read_again()
        return key_id(key) if self._keys.accept(key) else None

    def look_again(self) -> None:
        """Read the file again at the next request, whether it seems changed or not."""
        self._state, self._next_look = None, 0.0

    def _look(self) -> tuple[int, int, int] | None:
        path = self._settings.api_keys_file
        try:
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else (0, 0, 0)

    def _read_again(self) -> None:
        state = self._look()
        if state == self._state and state is not None:
            return
        self._state = state
        try:
            self._keys = ApiKeys.of(self._settings)
        except ValueError as error:
            logger.error("the keys stay as they were: %s", error)
            return
        logger.info("keys read again", extra={"facts": {"keys": len(self._keys.digests)}})


def key_id(key: str) -> str:
    """A name for a key, for logs and records, from which the key cannot be found out."""
    return hashlib.sha256(b"at2 key id\0" + _digest(key)).hexdigest()[:_ID_LENGTH]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _digests(setting: str, keys: list[str]) -> list[bytes]:
    keys = [key.strip() for key in keys if key.strip()]
    if not keys:
        raise ValueError(f"{setting}: there is no key in it")
    for place, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise ValueError(
                f"{setting}: key {place} has a blank, or a character that is not printable ASCII"
            )
        if len(key) < MIN_KEY_LENGTH:
            raise ValueError(
                f"{setting}: key {place} has {len(key)} characters, at least {MIN_KEY_LENGTH} are "
                "needed"
            )
    return [_digest(key) for key in keys]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on this address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(settings: Settings, keys: ApiKeys | Keyring) -> None:
    """Refuse to serve other machines without keys, unless that is asked for by name.

    Raises:
        ValueError: `host` is not a loopback address, there is no key, and `allow_no_key` is off.
    """
    if not keys and not settings.allow_no_key and not is_loopback(settings.host):
        raise ValueError(
            f"AT2_HOST={settings.host}: other machines could call without a key; set AT2_API_KEYS "
            "or AT2_API_KEYS_FILE, or AT2_ALLOW_NO_KEY=true if something in front asks for one"
        )


@dataclass(frozen=True)
class TrustedHosts:
    """Names by which a server may be called, in small letters.

    A page of `evil.example` that makes its name lead to 127.0.0.1 is of the same origin as the
    server there; all that tells its requests from others is that name, in `Host`.
    """

    names: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """This machine's names, and those of `trusted_hosts`.

        Raises:
            ValueError: one of the latter is no name.
        """
        names = {"localhost", socket.gethostname().lower(), settings.host.lower()}
        for name in (settings.trusted_hosts or "").split(","):
            name = name.strip().lower()
            if name and not _HOST.fullmatch(name):
                raise ValueError(
                    f"AT2_TRUSTED_HOSTS: {name!r} is not a name such as at2.example.org, nor "
                    "*.example.org, nor *"
                )
            names.add(name)
        return cls(frozenset(names - {""}))

    def accept(self, host: str, arrived_at: str) -> bool:
        """Whether a `Host` header names this server.

        Args:
            host: the header, with or without a port.
            arrived_at: the address that the connection was made to.
        """
        name = _PORT.sub("", host).strip("[]").lower().removesuffix(".")
        if not host or "*" in self.names or name in self.names or name == arrived_at:
            return True  # a browser always sends one
        try:
            ip_address(name)
        except ValueError:
            labels = name.split(".")
            wider = {"*." + ".".join(labels[place:]) for place in range(1, len(labels))}
            return bool(wider & self.names) or labels[-1] == "localhost"
        return True  # an address is no name that could lead elsewhere


def origins(settings: Settings) -> list[str]:
    """Origins whose pages may call from a browser.

    Raises:
        ValueError: one is neither `scheme://host[:port]` nor `*`.
    """
    given = (settings.cors_origins or "").lower().split(",")  # browsers send small letters
    names = [name.strip() for name in given if name.strip()]
    for name in names:
        if not _ORIGIN.fullmatch(name):
            raise ValueError(
                f"AT2_CORS_ORIGINS: {name!r} is not an origin such as https://example.org, nor *"
            )
    return names


def is_open(path: str, *, open_metrics: bool) -> bool:
    """Whether a path is served without a key."""
    if path == METRICS_PATH:
        return open_metrics
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)
