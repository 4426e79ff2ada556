"""What happens to every request around the routes, as plain ASGI: no reply is ever buffered.

From the outside in: headers → cross-origin → observe (id, log line, metrics, trace, the last
resort) → host → key → pace (a few begin at a time) → drain (no new work while stopping) → full →
body size → routes.
"""

from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.middleware.body import BodyLimit
from service.middleware.drain import Drain
from service.middleware.full import RefuseWhenFull
from service.middleware.headers import SecurityHeaders
from service.middleware.hosts import RequireHost
from service.middleware.key import RequireKey
from service.middleware.observe import REQUEST_ID_HEADER, Observe
from service.middleware.pace import Pace
from service.security import Keyring, TrustedHosts, origins
from service.settings import USUAL_SECONDS, Settings
from service.tracing import Traces

__all__ = ["install"]

_PREFLIGHT_SECONDS = 600
"""For how long a browser may remember what it is allowed: what browsers cap it at anyway."""


def install(
    app: FastAPI,
    settings: Settings,
    keys: Keyring,
    metrics: Metrics,
    traces: Traces | None,
    lifecycle: Lifecycle,
    check: Callable[[str], None],
) -> None:
    """Put all of it around an application, the innermost first.

    Raises:
        ValueError: `cors_origins` names something that is no origin, or `trusted_hosts` no host.
    """
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        seconds=settings.request_seconds or USUAL_SECONDS,
        still=settings.header_seconds,
    )
    app.add_middleware(RefuseWhenFull, check=check)
    app.add_middleware(Drain, lifecycle=lifecycle)
    app.add_middleware(Pace)
    if keys:
        app.add_middleware(RequireKey, keys=keys, open_metrics=settings.open_metrics)
    hosts = TrustedHosts.of(settings)
    if not keys or settings.trusted_hosts:  # what calls with a key is no page of somebody else's
        app.add_middleware(RequireHost, hosts=hosts)
    app.add_middleware(Observe, metrics=metrics, traces=traces, log_text=settings.log_text)
    allowed = origins(settings)
    if allowed:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After"],
            max_age=_PREFLIGHT_SECONDS,
        )
    app.add_middleware(SecurityHeaders)
