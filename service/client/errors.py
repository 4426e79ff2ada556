"""Every exception of the client.

    ClientError
    ├── UnsendableError             what was given cannot be sent: no request was made
    ├── ConnectionFailedError       no reply: nothing listens there, or the connection broke
    ├── ProtocolError               a reply that is none of this server's
    └── ApiError                    the server said no; has its message, type, code and status
        ├── BadRequestError         the request is at fault (4xx)
        │   ├── AuthenticationError a key is missing or unknown (401, 403)
        │   ├── NotFoundError       no such generation (404)
        │   └── BusyError           too many requests at once (429)
        └── ServerError             the server is at fault (5xx)
            ├── UnavailableError    starting, stopping or broken (503)
            └── DeadlineError       it took too long (504)

Separate from `at2.errors`, because importing that loads the model libraries.
"""

from dataclasses import dataclass

import httpx
from pydantic import ValidationError

from service.reply_schemas import ErrorBody, ErrorReply


class ClientError(Exception):
    """Base of all errors of the client; its message is one line."""


class UnsendableError(ClientError):
    """The arguments cannot be sent: a text with half a surrogate pair, a number that is none in
    JSON, or a malformed address."""


class ConnectionFailedError(ClientError):
    """There was no reply, or it broke off."""


class ProtocolError(ClientError):
    """The reply is not one of this server."""


@dataclass(frozen=True)
class Refusal:
    """What is known of a reply that is an error.

    Attributes:
        status: of HTTP; None for an error in the middle of a stream, whose status was 200.
        error: as the server gave it.
        request_id: to find the request in the server's log.
        retry_after: seconds after which the server wants to be asked again.
    """

    status: int | None
    error: ErrorBody
    request_id: str | None = None
    retry_after: float | None = None


class ApiError(ClientError):
    """The server refused or failed.

    Args:
        refusal: its reply.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.error.message)
        self.status = refusal.status
        self.message = refusal.error.message
        self.type = refusal.error.type
        self.param = refusal.error.param
        self.code = refusal.error.code
        self.request_id = refusal.request_id
        self.retry_after = refusal.retry_after


class BadRequestError(ApiError):
    """The request is at fault; the same again will fail again."""


class AuthenticationError(BadRequestError):
    """The server wants a key, or another one."""


class NotFoundError(BadRequestError):
    """There is no such generation, or no such path."""


class BusyError(BadRequestError):
    """Too many requests at once; later the same may succeed."""


class ServerError(ApiError):
    """The server is at fault."""


class UnavailableError(ServerError):
    """The server cannot work now: it is starting, stopping or broken."""


class DeadlineError(ServerError):
    """The request took longer than the server allows."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFoundError,
    429: BusyError,
    503: UnavailableError,
    504: DeadlineError,
}
_BY_CODE: dict[str | None, type[ApiError]] = {  # in a stream there is no status to go by
    "deadline_exceeded": DeadlineError,
    "engine_down": UnavailableError,
    "generator_late": DeadlineError,
    "generator_unavailable": UnavailableError,
    "server_busy": BusyError,
    "server_stopping": UnavailableError,
    "store_unavailable": UnavailableError,
}


def of_response(response: httpx.Response, retry_after: float | None) -> ApiError:
    """The exception for a reply whose status is an error; its body must have been read."""
    try:
        error = ErrorReply.model_validate_json(response.content).error
    except ValidationError:  # of something in between, such as a proxy
        error = ErrorBody(
            message=f"{response.url} answered {response.status_code} {response.reason_phrase}",
            type="unknown",
            param=None,
            code=None,
        )
    refusal = Refusal(
        response.status_code, error, response.headers.get("x-request-id"), retry_after
    )
    default = ServerError if response.is_server_error else BadRequestError
    return _BY_STATUS.get(response.status_code, default)(refusal)


def of_event(error: ErrorBody, request_id: str | None) -> ApiError:
    """The exception for an error in the middle of a stream."""
    default = BadRequestError if error.type == "invalid_request_error" else ServerError
    return _BY_CODE.get(error.code, default)(Refusal(None, error, request_id))
