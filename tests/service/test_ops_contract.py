"""The live OpenAPI document is true: whatever is sent, no 5xx, and replies are as documented."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
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

EXAMPLES = 60
"""Per operation; enough for every field to be wrong once, in some seconds."""


@pytest.fixture(scope="module")
def document(server: str) -> Any:
    return schemathesis.openapi.from_url(f"{server}/openapi.json")


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
        if method == "POST" and isinstance(case.body, dict):
            for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
                case.body.pop(name, None)  # long answers would only take long
        case.call_and_validate(checks=CHECKS, timeout=120)

    check()


def test_every_route_is_in_the_document(server: str) -> None:
    paths = httpx.get(f"{server}/openapi.json", timeout=120).json()["paths"]
    operations = {(path, name.upper()) for path in paths for name in paths[path]}
    assert operations == set(OPERATIONS)


def test_schemas_allow_what_the_conversation_of_the_readme_sends(server: str) -> None:
    body = {"context": "Ann lives in Rome.", "query": "Where does Ann live?"}
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    for path in ("/generate", "/attribute"):
        sent = body if path == "/generate" else body | {"response": "Rome."}
        case = schema[path]["POST"].Case(body=sent, media_type="application/json")
        case.call_and_validate(checks=CHECKS, timeout=120)
