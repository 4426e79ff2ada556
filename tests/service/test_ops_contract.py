"""The live OpenAPI document is true: whatever is sent, no 5xx, and replies are as documented."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

# Not among them: that what the document allows is accepted. It cannot say "either context or
# documents", so some of what it allows gets 400, which it documents.
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]

EXAMPLES = 24
"""Per test; `schemathesis run` takes more, see CONTRIBUTING.md."""

SHORT = 4
"""Tokens of an answer, at the most, where a number of them is asked for."""

MOST_FIELDS = 3
"""Of those that are generated, how many go into a request that is right without them."""

OPERATIONS = [
    ("/attribute", "POST"),
    ("/generate", "POST"),
    ("/generations/{generation_id}", "DELETE"),
    ("/generations/{generation_id}", "GET"),
    ("/generations/{generation_id}/export.html", "GET"),
    ("/generations/{generation_id}/prompt", "GET"),
    ("/health", "GET"),
    ("/info", "GET"),
    ("/metrics", "GET"),
    ("/ready", "GET"),
    ("/v1/chat/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model_id}", "GET"),
]

BODIES = {
    "/attribute": "AttributeRequest",
    "/generate": "GenerateRequest",
    "/v1/chat/completions": "ChatRequest",
}
"""The schema of each body."""

LIMITS = {"/generate": "max_new_tokens", "/v1/chat/completions": "max_tokens"}
"""How a body says how long the answer may be."""


@pytest.fixture(scope="module")
def document(server: str) -> Any:
    return schemathesis.openapi.from_url(f"{server}/openapi.json")


def _example(document: Any, path: str) -> dict[str, Any]:
    """What the document shows as a body."""
    schema = document.raw_schema["components"]["schemas"][BODIES[path]]
    return dict(schema["examples"][0])


def _status(case: schemathesis.Case) -> int:
    """Send a request; the reply is as the document says."""
    if isinstance(case.body, dict):
        for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
            if type(case.body.get(name)) is int:  # long answers would only take long
                case.body[name] = min(case.body[name], SHORT)
    return int(case.call_and_validate(checks=CHECKS, timeout=120).status_code)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_answers_as_documented(
    document: Any, path: str, method: str, mode: GenerationMode
) -> None:
    operation = document[path][method]
    can_be_wrong = operation.body or operation.query  # whatever stands in a path is a string
    if mode is GenerationMode.NEGATIVE and not can_be_wrong:
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES)
    def check(case: schemathesis.Case) -> None:
        _status(case)

    check()


@pytest.fixture(scope="module")
def made(document: Any, server: str) -> Callable[[], dict[str, str]]:
    """Makes a generation, and says how paths name it and its model."""
    body = _example(document, "/generate") | {"max_new_tokens": SHORT}

    def generate() -> dict[str, str]:
        response = httpx.post(f"{server}/generate", json=body, timeout=120)
        reply = response.raise_for_status().json()
        return {"generation_id": reply["id"], "model_id": quote(reply["model"], safe="")}

    return generate


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_succeeds_with_what_there_is(
    document: Any, made: Callable[[], dict[str, str]], path: str, method: str
) -> None:
    """What is sent is right, with a few fields of what is generated: so it gets past the checks of
    what goes together, to that which computes with it."""
    operation = document[path][method]
    names = made()
    statuses = []

    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE), data=st.data())
    @settings(max_examples=EXAMPLES)
    def check(case: schemathesis.Case, data: st.DataObject) -> None:
        def some(fields: dict[str, Any]) -> dict[str, Any]:
            names = st.sampled_from(sorted(fields) or [""])
            kept = data.draw(st.lists(names, max_size=MOST_FIELDS))
            return {name: value for name, value in fields.items() if name in kept}

        there = made() if method == "DELETE" else names
        case.path_parameters = {name: there[name] for name in case.path_parameters}
        case.query = some(case.query)
        if path == "/attribute":
            case.body = some(case.body) | {"id": there["generation_id"]}
        elif path in BODIES:
            limit = {LIMITS[path]: SHORT} if path in LIMITS else {}
            case.body = limit | some(case.body) | _example(document, path)
        statuses.append(_status(case))

    check()
    assert any(200 <= status < 300 for status in statuses), statuses


@pytest.mark.parametrize("path", BODIES)
def test_examples_of_the_document_are_answered(document: Any, path: str) -> None:
    body = _example(document, path)
    case = document[path]["POST"].Case(body=body, media_type="application/json")
    assert _status(case) == 200


def test_every_route_is_in_the_document(server: str) -> None:
    paths = httpx.get(f"{server}/openapi.json", timeout=120).json()["paths"]
    operations = {(path, name.upper()) for path in paths for name in paths[path]}
    assert operations == set(OPERATIONS)
