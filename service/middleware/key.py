"""A key for everything that is not open, asked for before anything of a request is read."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import reply
from service.logs import note
from service.security import Keyring, is_open

_REALM = 'Bearer realm="at2"'


class RequireKey:
    """Answers 401 unless `Authorization: Bearer` has one of the keys. The id of the one that a
    request has is in its `state.key_id`, for which records belong to it, and in its log line.

    Args:
        app: what is inside.
        keys: those that are taken.
        open_metrics: whether `/metrics` needs none.
    """

    def __init__(self, app: ASGIApp, *, keys: Keyring, open_metrics: bool) -> None:
        self._app = app
        self._keys = keys
        self._open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or is_open(scope["path"], open_metrics=self._open_metrics):
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message, code, challenge = (
                "a key is needed: send it as Authorization: Bearer KEY",
                "missing_api_key",
                _REALM,
            )
        elif (key_id := self._keys.accept(key.strip())) is None:
            message, code, challenge = (
                "this key is not known here",
                "invalid_api_key",
                f'{_REALM}, error="invalid_token"',
            )
        else:
            scope.setdefault("state", {})["key_id"] = key_id
            note(key_id=key_id)
            await self._app(scope, receive, send)
            return
        headers = {"WWW-Authenticate": challenge}
        response = reply(401, message, kind="authentication_error", code=code, headers=headers)
        await response(scope, receive, send)
