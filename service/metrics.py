"""What the server counts and times, for Prometheus. Knows nothing of HTTP or of models.

Each application has its own registry, so that several can live in one process.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from service.engine.accounts import Account

_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
"""Seconds: from a cached attribution (milliseconds) to a long answer on a CPU (minutes)."""

_FIRST_TOKENS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48)
"""Seconds: a prefill alone, up to one behind a full queue; doubling, as its causes multiply."""

_BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""Seconds: from a small model on a GPU to a large one on a busy CPU."""

Aborted = Literal["gone", "failed", "stopping"]
"""Why a generation has no reply: its client went away, an error, or the server's stop."""

_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""Tokens of one request: powers of four up to the longest contexts that models take."""

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

UNMATCHED = "other"
"""Label of what has no route, so that callers cannot make new time series."""


def method_label(method: str) -> str:
    """A request's method, or `UNMATCHED` for one that is nobody's."""
    return method if method in _METHODS else UNMATCHED


class _Owned(Collector):
    """Counters that their owner keeps, read whenever somebody asks for the metrics."""

    def __init__(self) -> None:
        self.scoring_passes: Callable[[], float] = lambda: 0.0
        self.accounts: Callable[[], Mapping[str, Account]] = dict

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counters as they stand."""
        yield CounterMetricFamily(
            "at2_scoring_passes",
            "Passes over the model that attribution took.",
            value=self.scoring_passes(),
        )
        tokens = CounterMetricFamily(
            "at2_key_tokens", "Tokens that each key was given.", labels=("key", "kind")
        )
        waited = CounterMetricFamily(
            "at2_key_waiting_seconds",
            "Seconds that each key's requests waited for their turns.",
            labels=("key",),
        )
        refused = CounterMetricFamily(
            "at2_key_refused", "Requests of each key that were not let in.", labels=("key",)
        )
        for key, account in self.accounts().items():
            tokens.add_metric((key, "prompt"), account.prompt_tokens)
            tokens.add_metric((key, "generated"), account.new_tokens)
            tokens.add_metric((key, "scored"), account.scored_tokens)
            waited.add_metric((key,), account.waited)
            refused.add_metric((key,), account.refused)
        yield from (tokens, waited, refused)


class Metrics:
    """Counters, histograms and gauges of one application.

    Args:
        version: of the server.
        model: name of the model it serves.
    """

    def __init__(self, *, version: str, model: str) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        ProcessCollector(registry=registry)
        Info("at2", "Version of the server and its model.", registry=registry).info(
            {"version": version, "model": model}
        )
        self._requests = Counter(
            "at2_requests",
            "HTTP requests answered, health, readiness and metrics left out.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "at2_request_duration_seconds",
            "From the first byte of a request to the last byte of its reply.",
            ("method", "route"),
            buckets=_DURATIONS,
            registry=registry,
        )
        self._errors = Counter(
            "at2_errors", "Replies that were errors.", ("type", "code"), registry=registry
        )
        self._first_token_seconds = Histogram(
            "at2_time_to_first_token_seconds",
            "From a generation's arrival to its first token.",
            buckets=_FIRST_TOKENS,
            registry=registry,
        )
        self._generation_seconds = Histogram(
            "at2_generation_duration_seconds",
            "From a generation's arrival to its last token.",
            ("finish_reason",),
            buckets=_DURATIONS,
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "at2_prompt_tokens", "Tokens of prompts answered.", registry=registry
        )
        self._generation_tokens = Counter(
            "at2_generation_tokens", "Tokens generated.", registry=registry
        )
        self._between_tokens = Histogram(
            "at2_time_between_tokens_seconds",
            "From one token of a response to the next.",
            buckets=_BETWEEN_TOKENS,
            registry=registry,
        )
        self._aborted = Counter(
            "at2_generations_aborted",
            "Generations that had no reply.",
            ("reason",),
            registry=registry,
        )
        self._prompt_sizes = Histogram(
            "at2_request_prompt_tokens",
            "Tokens of one prompt.",
            buckets=_TOKENS,
            registry=registry,
        )
        self._attribution_seconds = Histogram(
            "at2_attribution_duration_seconds",
            "Work of one attribution request, without waiting for its turn.",
            ("method",),
            buckets=_DURATIONS,
            registry=registry,
        )
        self._running = Gauge(
            "at2_requests_running", "Generations that the model works on.", registry=registry
        )
        self._waiting = Gauge(
            "at2_requests_waiting", "Requests that wait for their turn.", registry=registry
        )
        self._cache_usage = Gauge(
            "at2_cache_usage", "Share of the key-value cache in use, 0 to 1.", registry=registry
        )
        self._owned = _Owned()
        registry.register(self._owned)

    def observe_request(
        self, *, method: str, route: str | None, status: int, seconds: float
    ) -> None:
        """Count and time a reply. `route` is the path's template; None for unknown paths."""
        method = method_label(method)
        route = UNMATCHED if route is None else route
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def observe_error(self, *, kind: str, code: str | None) -> None:
        """Count an error reply, or an error inside a stream, by its type and code."""
        self._errors.labels(kind, code or "").inc()

    def observe_first_token(self, seconds: float, *, prompt_tokens: int) -> None:
        """Time a generation's first token, waiting included, and count the prompt, now read."""
        self._first_token_seconds.observe(seconds)
        self._prompt_tokens.inc(prompt_tokens)
        self._prompt_sizes.observe(prompt_tokens)

    def observe_tokens(self, count: int, *, seconds: float | None) -> None:
        """Count new tokens, whatever becomes of them.

        Args:
            count: how many.
            seconds: since the last ones, if there were any.
        """
        self._generation_tokens.inc(count)
        if seconds is not None:
            self._between_tokens.observe(seconds / count)

    def observe_generation(self, *, seconds: float, finish_reason: str) -> None:
        """Time a finished generation, waiting included."""
        self._generation_seconds.labels(finish_reason).observe(seconds)

    def observe_abort(self, *, reason: Aborted) -> None:
        """Count a generation that has no reply."""
        self._aborted.labels(reason).inc()

    def observe_attribution(self, *, method: str, seconds: float) -> None:
        """Time the work of one attribution request, without waiting."""
        self._attribution_seconds.labels(method).observe(seconds)

    def watch(
        self,
        *,
        running: Callable[[], float],
        waiting: Callable[[], float],
        cache_usage: Callable[[], float],
        scoring_passes: Callable[[], float],
        accounts: "Callable[[], Mapping[str, Account]]" = dict,
    ) -> None:
        """Read these from their owner whenever somebody asks for the metrics."""
        self._running.set_function(running)
        self._waiting.set_function(waiting)
        self._cache_usage.set_function(cache_usage)
        self._owned.scoring_passes = scoring_passes
        self._owned.accounts = accounts

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text, and its content type.

        Args:
            accept: the asker's `Accept` header: Prometheus' text format, or OpenMetrics.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
