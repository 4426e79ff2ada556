"""The page in a real browser: texts that are hostile, in any script, or long."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page, Route, expect

from tests.helpers import browser as browsers
from tests.helpers.page_visits import (
    CONTEXT,
    QUERY,
    ask,
    record_of,
)

pytestmark = browsers.NEEDED

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> is the first sentence. "
    "<script>document.title='owned'</script> is the second. "
    "👩‍👩‍👧 New readers need a card 🏠. שלום עולם, זה משפט. {{7*7}} ${7*7} &amp; "
    "<|assistant|> is text."
)


def test_hostile_text_is_only_text(page: Page, address: str) -> None:
    ask(page, HOSTILE, "What is text?")
    expect(page.locator("#context")).to_have_text(HOSTILE)
    assert page.locator("#context img, #context script, #findings img, #matrix img").count() == 0
    assert "owned" not in page.title()
    record = record_of(page, address)
    for source in record["sources"]:  # type: ignore[attr-defined]
        page.locator("#findings .quoted", has_text=source["text"]).click()
        expect(page.locator("#context mark:focus")).to_have_text(source["text"])
        assert HOSTILE[source["start"] : source["end"]] == source["text"]


def test_markup_written_by_the_model_is_only_text(page: Page) -> None:
    response = "<img src=x onerror=\"document.title='owned'\">👍 <b>עברית</b> fine."
    record = {
        "id": "gen-0", "model": "m", "created": 0, "expires": None, "response": response,
        "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        "sources": [], "statements": [{"start": 0, "end": len(response), "text": response}],
    }  # fmt: skip
    source = {"index": 0, "document": 0, "document_id": None, "start": 0, "end": 17, "rank": 1}
    source |= {"text": CONTEXT[:17], "score": 0.5}
    found = {"start": 0, "end": len(response), "text": response, "attributed_text": response}
    events = [{"type": "delta", "text": response}, {"type": "done", "generation": record}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"

    def generate(route: Route) -> None:
        route.fulfill(body=stream, content_type="text/event-stream")

    def attribute(route: Route) -> None:
        sent = json.loads(route.request.post_data or "")
        assert sent["response"] == response and "id" not in sent  # the server keeps nothing
        route.fulfill(json={"attributions": [found | {"sources": [source]}]})

    page.route("**/generate", generate)
    page.route("**/attribute", attribute)
    ask(page)
    expect(page.locator("#answer")).to_have_text(response)
    assert page.locator("#answer img, #answer b, #findings img").count() == 0
    assert "owned" not in page.title()
    expect(page.locator("#link")).to_be_hidden()


ALPHABET = "ab é\n.ש漢🏠👍🏽\u200d𝒳"


@given(texts=st.lists(st.text(ALPHABET, max_size=12), min_size=30, max_size=30))
@settings(max_examples=15)
def test_offsets_count_code_points(blank: Page, texts: list[str]) -> None:
    found = blank.evaluate(
        """async (texts) => {
            const { Text } = await import('/page/text.js');
            return texts.map((string) => {
                const text = new Text(string);
                const points = [...Array(text.length + 1).keys()];
                const units = points.map((point) => text.unit(point));
                const inside = [...Array(string.length).keys()].map((u) => text.cover(u, u + 1));
                return [text.length, units, units.map((unit) => text.point(unit)), inside];
            });
        }""",
        texts,
    )
    for text, (length, units, points, inside) in zip(texts, found, strict=True):
        assert length == len(text)
        assert units == [len(text[:n].encode("utf-16-le")) // 2 for n in range(length + 1)]
        assert points == list(range(length + 1))
        owner = [n for n, letter in enumerate(text) for _ in range(1 + (ord(letter) > 0xFFFF))]
        assert inside == [[n, n + 1] for n in owner]


def test_five_thousand_lines_stay_usable(page: Page) -> None:
    lines = [f"Line {number} says that nothing happened." for number in range(5000)]
    expect(page.locator(".chip").first).to_be_visible()
    buffer = "\n".join(lines).encode()
    page.locator("#files").set_input_files(
        {"name": "long.txt", "mimeType": "text/plain", "buffer": buffer}
    )
    expect(page.locator("#documents .title")).to_have_value("long.txt")
    page.locator("#question").fill(QUERY)
    page.locator("#ask").click()
    expect(page.locator("#notice")).to_contain_text("Shorten it")
    expect(page.locator("#context")).to_contain_text("Line 4999 says")
    assert page.locator("#context *").count() < 1000
    touched = page.evaluate(
        """async () => {
            const context = await import('/page/context.js');
            const text = document.querySelector('#context .text').textContent;
            const sources = [...text.matchAll(/Line \\d+/g)].map((m, index) => ({index, document: 0,
              start: m.index, end: m.index + m[0].length, text: m[0]}));
            context.setSources(sources);
            let changes = 0;
            const observer = new MutationObserver((all) => { changes += all.length; });
            observer.observe(document.getElementById('context'), {childList: true, subtree: true});
            context.light(new Map([[17, 1], [4321, 0.5]]));
            await new Promise(requestAnimationFrame);
            const marks = [...document.querySelectorAll('#context mark')];
            return [changes, marks.map(m => m.textContent)];
        }"""
    )
    assert touched == [2, ["Line 17", "Line 4321"]]
