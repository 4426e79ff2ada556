"""What OpenAI's users have works unchanged: their clients' own code against the default model."""

import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

from tests.helpers.replies import alike

pytestmark = pytest.mark.default_model

MODEL = "SmolLM2-135M-Instruct"
DOCUMENTS = [
    {"id": "minutes", "text": "The chair opened the meeting at half past seven. Tomás reported "
     "that the society has £1,284 in the bank."},
    {"id": "tank", "text": "The water tank by the north gate leaks and will be replaced in April."},
]  # fmt: skip
MINUTES = (
    "The chair, Helen Marsh, opened the meeting at half past seven. Tomás reported that the "
    "society has £1,284 in the bank. The water tank by the north gate leaks and will be replaced "
    "in April. Plot 17 is free again. The next meeting is on 14 April."
)
QUESTION = "How much money does the society have in the bank?"
SUM = "£1,284"
KEY = "a-key-that-is-not-looked-at"


@pytest.fixture()
def client(default_server: str) -> Any:
    with openai.OpenAI(base_url=f"{default_server}/v1", api_key=KEY) as client:
        yield client


def _cites_the_sum(annotations: list[Any]) -> bool:
    """Whether the statement with the sum cites the sentence that has it, first of all."""
    found = [a for a in annotations if SUM in a["text"]]
    return bool(found) and SUM in found[0]["sources"][0]["text"]


def test_openai_asks_and_shows_citations(client: openai.OpenAI, default_server: str) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"documents": DOCUMENTS},
    )
    message = reply.choices[0].message
    assert SUM in (message.content or "") and reply.choices[0].finish_reason == "stop"
    assert reply.usage and reply.usage.total_tokens > reply.usage.prompt_tokens > 0
    annotations = [annotation.model_dump() for annotation in message.annotations or []]
    assert _cites_the_sum(annotations)
    assert annotations[0]["sources"][0]["document_id"] == "minutes"
    found = httpx.post(f"{default_server}/attribute", json={"id": reply.id}).json()
    assert SUM in found["attributions"][0]["sources"][0]["text"]


def test_openai_streams_text_citations_and_usage(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"documents": DOCUMENTS},
    )
    text, annotations, usage = "", [], None
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"documents": DOCUMENTS},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            annotations += getattr(choice.delta, "annotations", [])
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    expected = whole.choices[0].message.annotations or []
    assert alike(annotations, [one.model_dump(exclude_unset=True) for one in expected])


def test_openai_shows_whether_the_context_made_the_model_say_it(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"documents": DOCUMENTS, "attribution": {"support": True}},
    )
    annotations: Any = reply.choices[0].message.annotations
    (found,) = [one for one in annotations if SUM in one.text]
    assert found.support > 0 and found.verdict == "supported"


@pytest.mark.parametrize("stop", ["£1,2", ["bank.", "1,284"]])
def test_openai_gets_nothing_from_a_stop_text_on(client: openai.OpenAI, stop: Any) -> None:
    asked: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "extra_body": {"documents": DOCUMENTS},
    }
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    first = stop if isinstance(stop, str) else "1,284"
    (choice,) = client.chat.completions.create(**asked, stop=stop).choices
    assert choice.message.content == whole[: whole.index(first)] != whole
    assert choice.finish_reason == "stop"
    streamed = client.chat.completions.create(**asked, stop=stop, stream=True)
    choices = [choice for chunk in streamed for choice in chunk.choices]
    assert "".join(one.delta.content or "" for one in choices) == choice.message.content
    assert choices[-1].finish_reason == "stop"


def test_a_statement_is_cited_while_the_next_ones_are_written(client: openai.OpenAI) -> None:
    text, positions = "", []
    for chunk in client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        extra_body={"documents": [MINUTES]},
    ):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for one in getattr(delta, "annotations", []):
            assert text[one["start"] : one["end"]] == one["text"]
            positions.append(len(text))
    assert len(positions) > 2 and positions[0] < len(text)


def test_openai_raises_its_own_errors(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=messages)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=messages, n=2)
    assert refused.value.param == "n" and refused.value.code == "unsupported_parameter"
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_langchain_answers_and_its_id_is_attributed(default_server: str) -> None:
    chat = ChatOpenAI(
        base_url=f"{default_server}/v1",
        api_key=KEY,
        model=MODEL,
        extra_body={"documents": DOCUMENTS},
    )
    message = chat.invoke(QUESTION)
    assert SUM in message.text
    assert message.usage_metadata and message.usage_metadata["output_tokens"] > 0
    body = {"id": message.response_metadata["id"], "split_by": "sentence"}
    found = httpx.post(f"{default_server}/attribute", json=body).json()["attributions"]
    assert _cites_the_sum(found)
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == message.text


def test_langchain_puts_the_context_in_a_system_message(default_server: str) -> None:
    chat = ChatOpenAI(base_url=f"{default_server}/v1", api_key=KEY, model=MODEL, temperature=0)
    context = "Answer from this context:\n\n" + "\n\n".join(d["text"] for d in DOCUMENTS)
    message = chat.invoke([("system", context), ("user", QUESTION)])
    assert SUM in message.text
    body = {"id": message.response_metadata["id"], "split_by": "sentence"}
    found = httpx.post(f"{default_server}/attribute", json=body).json()["attributions"]
    assert _cites_the_sum(found)
    source = found[0]["sources"][0]
    assert context[source["start"] : source["end"]] == source["text"]


def test_llama_index_has_the_citations_in_its_raw_reply(default_server: str) -> None:
    llm = OpenAILike(
        api_base=f"{default_server}/v1",
        api_key=KEY,
        model=MODEL,
        is_chat_model=True,
        temperature=0,
        additional_kwargs={"extra_body": {"documents": DOCUMENTS}},
    )
    messages = [ChatMessage(role="user", content=QUESTION)]
    reply = llm.chat(messages)
    text = reply.message.content or ""
    assert SUM in text and llm.complete(QUESTION).text == text
    annotations = reply.raw.choices[0].message.annotations
    assert _cites_the_sum([annotation.model_dump() for annotation in annotations])
    streamed = list(llm.stream_chat(messages))
    assert streamed[-1].message.content == text
    annotations = [
        annotation
        for part in streamed
        for choice in part.raw.choices
        for annotation in getattr(choice.delta, "annotations", [])
    ]
    assert _cites_the_sum(annotations)


PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_the_examples_of_the_documentation_print_what_they_show(
    default_server: str, capsys: pytest.CaptureFixture[str], code: str, printed: str
) -> None:
    assert "http://127.0.0.1:8000" in code
    exec(code.replace("http://127.0.0.1:8000", default_server), {})
    assert capsys.readouterr().out.strip() == printed.strip()


def test_the_documentation_has_examples_of_all_three() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 5
