"""What can be done with a generation, as links of the OpenAPI document.

Tools read them: a client in /docs or a fuzzer knows that the `id` of one reply is what other
operations take.
"""

from typing import Any

_ID = "$response.body#/id"


def _by_path(operation: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": {"generation_id": _ID}}


OF_A_GENERATION: dict[str, Any] = {
    "attribute": {"operationId": "attribute", "requestBody": {"id": _ID}},
    "get": _by_path("get_generation"),
    "prompt": _by_path("get_prompt"),
    "export": _by_path("export"),
    "delete": _by_path("delete_generation"),
}
"""Of a reply whose `id` names a generation."""
