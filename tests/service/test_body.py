"""Bodies are read at a bounded cost, to the first thing that is wrong with them, and strictly."""

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from service.body import read
from service.field_types import MAX_ITEMS
from service.openai_schemas import ChatRequest
from service.request_schemas import AttributeRequest, GenerateRequest

GENERATE = {"context": "Ann lives in Rome.", "query": "Where does Ann live?"}
ATTRIBUTE = GENERATE | {"response": "Rome."}


def _error(body: Any, model: type = AttributeRequest) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RequestValidationError) as caught:
        read(content, model)
    (error,) = caught.value.errors()  # the first, and no other
    return dict(error)


@pytest.mark.parametrize("field", ["spans", "documents", "messages"])
@pytest.mark.parametrize("count", [MAX_ITEMS, 100_000, 600_000])
def test_a_list_of_nonsense_ends_at_its_first_item(field: str, count: int) -> None:
    error = _error({"id": "x", field: [{}] * count})
    assert error["type"] in ("missing", "too_long")
    assert error["loc"][:3] == ("body", field, 0) or "more than 150000 values" in error["msg"]


@pytest.mark.parametrize(
    ("field", "item"),
    [
        ("spans", {"start": 0, "end": 1}),
        ("documents", {"text": "x"}),
        ("messages", {"role": "user", "content": "x"}),
    ],
)
def test_lists_have_a_longest(field: str, item: dict[str, Any]) -> None:
    body = {"context": "x", "query": "q", "response": "r"} | {field: [item] * (MAX_ITEMS + 1)}
    error = _error(body)
    assert error["loc"] == ("body", field)
    assert error["type"] == "too_long" and str(MAX_ITEMS) in error["msg"]


@pytest.mark.parametrize("count", [1, 10, 100, 10_000, 200_000])
def test_unknown_fields_end_at_one(count: int) -> None:
    for body in (
        ATTRIBUTE | {f"f{n}": 1 for n in range(count)},
        GENERATE
        | {"context": None, "documents": [{"text": "x"} | {f"f{n}": 1 for n in range(count)}]},
    ):
        assert _error(body)["type"] in ("extra_forbidden", "too_long")


def test_deep_nesting_is_told() -> None:
    for opening in (b"[", b'{"a":', b'{"documents":['):
        assert "nested too deeply" in _error(opening * 20_000)["msg"]


@pytest.mark.parametrize("model", [AttributeRequest, ChatRequest, GenerateRequest])
def test_every_field_may_be_given_at_once(model: type[BaseModel]) -> None:
    """Together they may contradict each other; their number is no reason to refuse them."""
    with pytest.raises(RequestValidationError) as caught:
        read(json.dumps(dict.fromkeys(model.model_fields)).encode(), model)
    assert len(caught.value.errors()[0]["loc"]) > 1  # a field, not the number of them


NO_INTEGERS = {
    "true": "true",
    "false": "false",
    "a text": '"1"',
    "a number with a point": "1.0",
    "a number with an exponent": "1e2",
    "a list": "[1]",
    "5000 digits": "1" * 5000,
    "a minus and 5000 digits": "-" + "9" * 5000,
}


@pytest.mark.parametrize("value", NO_INTEGERS.values(), ids=NO_INTEGERS)
@pytest.mark.parametrize("field", ["start", "top_k", "occurrence"])
def test_what_is_no_integer_is_refused_as_none(field: str, value: str) -> None:
    error = _error(f'{json.dumps(ATTRIBUTE)[:-1]}, "{field}": {value}}}'.encode())
    assert error["loc"] == ("body", field)
    assert "integer" in error["msg"]


@pytest.mark.parametrize("value", [True, "0.5", [0.5]])
def test_what_is_no_number_is_refused(value: Any) -> None:
    error = _error(GENERATE | {"temperature": value}, GenerateRequest)
    assert error["loc"] == ("body", "temperature") and "number" in error["msg"]


@pytest.mark.parametrize("value", [1, 0, "true", "yes"])
def test_what_is_not_true_or_false_is_refused(value: Any) -> None:
    error = _error(GENERATE | {"stream": value}, GenerateRequest)
    assert error["loc"] == ("body", "stream") and "boolean" in error["msg"]


def test_a_whole_number_is_a_number() -> None:
    assert (
        read(json.dumps(GENERATE | {"temperature": 1}).encode(), GenerateRequest).temperature == 1
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(lambda text: f"x{text}"))
def test_long_texts_are_read_whatever_is_in_them(text: str) -> None:
    """Quotes, backslashes, commas and brackets of texts are no values."""
    long = text * (100_000 // len(text))
    for ascii_only in (True, False):
        content = json.dumps(GENERATE | {"context": long}, ensure_ascii=ascii_only).encode()
        assert read(content, GenerateRequest).context == long


@pytest.mark.parametrize("text", ['"', "\\", '\\"', '"\\', "[{,", '",["'])
def test_texts_of_nothing_but_marks_are_read(text: str) -> None:
    long = text * 300_000
    assert read(json.dumps(GENERATE | {"context": long}).encode(), GenerateRequest).context == long


def test_as_many_values_as_there_may_be_are_read() -> None:
    documents = [{"id": "i", "title": "t", "text": "x,[{"}] * MAX_ITEMS
    body = {
        "documents": documents,
        "query": "q",
        "response": "r",
        "spans": [{"start": 0, "end": 1}],
    }
    assert len(read(json.dumps(body).encode(), AttributeRequest).documents or ()) == MAX_ITEMS
