"""The page in a real browser, against a real server."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, Route, expect

from tests.helpers import browser as browsers
from tests.helpers.tiny import tiny_server

pytestmark = pytest.mark.skipif(
    browsers.CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here"
)

CONTEXT = (
    "The library opens at nine on weekdays. On Saturdays it closes at one. "
    "The café on the first floor is run by volunteers. New readers need a card with a photograph."
)
QUERY = "When can I read there?"
LONG_QUERY = "When is closed on Saturdays?"
"""The model answers in three statements, the first of them long; the second's first source is not
the others'."""
SHOWN = 60
"""Characters of a statement that the page repeats at least, above its sources."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1280, "height": 900}}
_LIMIT_S = 60
KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "records.db"


@pytest.fixture(scope="module")
def address(store: Path) -> Iterator[str]:
    with tiny_server(AT2_STORE=str(store)) as (_, address):
        yield address


@pytest.fixture(scope="module")
def blank(browser: Browser, address: str) -> Iterator[Page]:
    """A page that only lends its scripts."""
    with browsers.visit(browser, address) as page:
        expect(page.locator(".chip").first).to_be_visible()
        yield page


@pytest.fixture()
def page(browser: Browser, address: str) -> Iterator[Page]:
    with browsers.visit(browser, address, **DESK) as page:
        yield page


def send(page: Page, context: str = CONTEXT, query: str = QUERY) -> None:
    """Ask."""
    expect(page.locator(".chip").first).to_be_visible()
    if page.locator("#edit").is_visible():
        page.locator("#edit").click()
    page.locator("#documents textarea").fill(context)
    page.locator("#question").fill(query)
    page.locator("#ask").click()


def ask(page: Page, context: str = CONTEXT, query: str = QUERY) -> None:
    """Ask, and wait for the answer's sources and for what the context is worth to it."""
    send(page, context, query)
    expect(page.locator("#findings .source").first).to_be_visible()
    expect(page.locator(".statement[data-support]").first).to_be_visible()


def several_statements(page: Page) -> None:
    """An answer of three statements."""
    ask(page, query=LONG_QUERY)
    expect(page.locator(".statement")).to_have_count(3)


def best_source(page: Page) -> str:
    """The text of the first source that is shown."""
    return page.locator("#findings .source .quoted").first.inner_text()


def marks(page: Page) -> dict[str, float]:
    """What is marked in the context, with its strength."""
    found: dict[str, float] = page.locator("#context mark").evaluate_all(
        "all => Object.fromEntries(all.map(m => "
        "[m.textContent, Number(m.style.getPropertyValue('--share'))]))"
    )
    return found


def record_of(page: Page, address: str) -> dict[str, object]:
    """The record whose link the page shows."""
    found = re.search(r"\?id=(gen-\w+)$", page.url)
    assert found is not None, page.url
    reply: dict[str, object] = httpx.get(
        f"{address}/generations/{found[1]}", timeout=_LIMIT_S
    ).json()
    return reply


def test_an_answer_is_written_and_its_source_lights_up(page: Page, address: str) -> None:
    ask(page)
    record = record_of(page, address)
    expect(page.locator("#answer")).to_have_text(str(record["response"]))
    shares = marks(page)
    assert shares[best_source(page)] == 1.0 == max(shares.values())
    reply = httpx.post(
        f"{address}/attribute", json={"id": record["id"], "split_by": "sentence"}, timeout=_LIMIT_S
    ).json()
    ranked = [source["text"] for source in reply["attributions"][0]["sources"]]
    assert page.locator("#findings .quoted").all_inner_texts() == ranked


def test_the_answer_is_shown_while_it_is_written(page: Page) -> None:
    page.evaluate(
        "() => { window.seen = []; new MutationObserver(() => seen.push("
        "document.getElementById('answer').textContent)).observe("
        "document.getElementById('answer'), {childList: true, characterData: true, subtree: true});"
        " }"
    )
    ask(page)
    seen: list[str] = page.evaluate("window.seen")
    final = page.locator("#answer").inner_text()
    partial = [text for text in seen if text and text != final]
    assert partial and all(final.startswith(text) for text in partial)
    assert partial == sorted(partial, key=len)


def test_pointing_at_a_statement_previews_its_sources(page: Page) -> None:
    several_statements(page)
    statements = page.locator(".statement")
    page.locator("h1").hover()
    pinned = marks(page)
    statements.nth(1).hover()
    expect(page.locator("#findings .subject")).to_contain_text(
        statements.nth(1).inner_text()[:SHOWN]
    )
    hovered = marks(page)
    assert max(hovered, key=hovered.__getitem__) != max(pinned, key=pinned.__getitem__)
    page.locator("h1").hover()
    expect(page.locator("#findings .subject")).to_contain_text(
        statements.nth(0).inner_text()[:SHOWN]
    )
    assert marks(page) == pinned
    statements.nth(1).click()
    page.locator("h1").hover()
    expect(statements.nth(1)).to_have_attribute("aria-pressed", "true")
    assert marks(page) == hovered


def test_a_selection_across_a_token_border_is_attributed(page: Page) -> None:
    several_statements(page)
    # from inside one word to inside the next, dragged with the mouse
    box = page.locator("#answer").evaluate(
        "a => { const n = a.querySelector('.statement').firstChild, r = document.createRange();"
        "const at = (i) => { r.setStart(n, i); r.setEnd(n, i + 1);"
        "const b = r.getBoundingClientRect(); return [b.left + 1, b.top + b.height / 2]; };"
        "return [at(20), at(28)]; }"
    )
    with page.expect_response("**/attribute") as waiting:
        page.mouse.move(*box[0])
        page.mouse.down()
        page.mouse.move(*box[1], steps=5)
        page.mouse.up()
    reply = waiting.value.json()["attributions"][0]
    chosen = page.locator(".statement").first.inner_text()[20:28]
    assert reply["text"] == chosen and " " in chosen.strip()
    assert reply["text"] in reply["attributed_text"] != reply["text"]
    subject = page.locator("#findings .subject")
    expect(subject).to_contain_text(chosen)
    if reply["attributed_text"].strip() != reply["text"]:
        expect(subject).to_contain_text(reply["attributed_text"].strip())


def test_everything_is_done_with_the_keyboard_alone(page: Page, address: str) -> None:
    several_statements(page)
    first, second = (page.locator(".statement").nth(n).inner_text() for n in (0, 1))
    page.locator(".statement").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#findings .subject")).to_contain_text(second[:SHOWN])
    page.keyboard.press("ArrowUp")
    expect(page.locator("#findings .subject")).to_contain_text(first[:SHOWN])
    with page.expect_response("**/attribute") as waiting:
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
    words = first.split()
    assert waiting.value.json()["attributions"][0]["text"] == " ".join(words[:2])
    expect(page.locator("#findings .subject")).to_contain_text(" ".join(words[:2]))
    page.keyboard.press("Escape")
    expect(page.locator("#findings .subject")).to_contain_text(first[:SHOWN])
    page.locator("#context").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#findings-heading")).to_have_text("Used by")


def test_a_source_shows_the_statements_that_used_it(page: Page) -> None:
    several_statements(page)
    statements = page.locator(".statement").all_inner_texts()
    page.locator(".statement").nth(1).click()
    best = page.locator("#findings .source").first
    text = best.locator(".quoted").inner_text()
    mark = page.locator("#context mark", has_text=text)
    mark.click()
    expect(page.locator("#findings-heading")).to_have_text("Used by")
    expect(page.locator("#findings .source").first).to_contain_text(statements[1][:SHOWN])
    strengths = page.locator(".statement.used").evaluate_all(
        "all => all.map(s => Number(s.style.getPropertyValue('--share')))"
    )
    assert strengths[1] == 1.0 and strengths[0] < 1.0
    page.locator("#findings .source").first.click()
    expect(page.locator("#findings-heading")).to_have_text("Sources")


def test_a_place_without_a_mark_is_clickable_too(page: Page) -> None:
    ask(page)
    spot = page.locator("#context .block").evaluate(
        "b => { const w = document.createTreeWalker(b, NodeFilter.SHOW_TEXT);"
        "for (let n = w.nextNode(); n; n = w.nextNode()) { const i = n.data.indexOf('volunteers');"
        "if (i >= 0) { const r = document.createRange(); r.setStart(n, i); r.setEnd(n, i + 1);"
        "const c = r.getBoundingClientRect(); return [c.left + 2, c.top + c.height / 2]; } } }"
    )
    page.mouse.click(*spot)
    whole = "The café on the first floor is run by volunteers."
    expect(page.locator("#findings .subject")).to_contain_text(whole)
    expect(page.locator("#context mark.chosen")).to_have_text(whole)


def test_verifying_shows_what_really_removing_the_sources_does(page: Page) -> None:
    ask(page)
    with page.expect_response("**/attribute") as waiting:
        page.locator("#verify").click()
    measured = waiting.value.json()["attributions"][0]["verification"]
    expect(page.locator("#findings .summary")).to_contain_text(f"{measured['drop_together']:.2f}")
    drops = page.locator("#findings .drop").all_inner_texts()
    assert len(drops) == len(measured["sources"])
    assert drops[0] == f"drop {measured['sources'][0]['drop']:.2f} nats"


def test_statements_are_labelled_with_what_the_context_is_worth(page: Page, address: str) -> None:
    several_statements(page)
    record = record_of(page, address)
    body = {"id": record["id"], "split_by": "sentence", "support": True}
    reply = httpx.post(f"{address}/attribute", json=body).json()
    labels = page.locator(".statement").evaluate_all("all => all.map(s => s.dataset.support)")
    measured = [found["support"] for found in reply["attributions"]]
    assert labels == [f"{'−' if s < 0 else '+'}{abs(s):.2f} nats" for s in measured]
    expect(page.locator(".statement").first).to_have_attribute("title", re.compile("a token"))
    expect(page.locator("#answer")).to_have_text(str(record["response"]))


def test_sources_that_are_not_cited_are_pale(page: Page) -> None:
    with page.expect_response("**/attribute") as waiting:
        ask(page)
    sources = waiting.value.json()["attributions"][0]["sources"]
    pale = page.locator("#findings .ranking li").evaluate_all(
        "all => all.map(item => item.classList.contains('uncited'))"
    )
    assert pale == [not source["cited"] for source in sources]


def test_level_and_method_can_be_switched(page: Page) -> None:
    ask(page)
    with page.expect_response("**/attribute") as waiting:
        page.locator("#level").select_option("word")
    best = waiting.value.json()["attributions"][0]["sources"][0]
    expect(page.locator("#findings .source").first).to_contain_text(best["text"])
    assert best["text"] in marks(page)
    with page.expect_response("**/attribute") as waiting:
        page.locator("#method").select_option("average_attention")
    assert waiting.value.json()["method"] == "average_attention"
    expect(page.locator("#findings")).to_have_attribute("aria-busy", "false")


def test_the_chosen_estimator_goes_with_every_method_that_takes_one(page: Page) -> None:
    def two(route: Route) -> None:
        info = route.fetch().json()
        route.fulfill(json=info | {"estimators": info["estimators"] * 2})

    page.route("**/info", two)
    page.reload()
    ask(page)
    for method, takes_one in (("fusion", True), ("average_attention", False)):
        with page.expect_response("**/attribute") as waiting:
            page.locator("#method").select_option(method)
        sent = json.loads(waiting.value.request.post_data or "")
        assert waiting.value.ok and ("estimator" in sent) == takes_one


def test_the_matrix_shows_every_statement_and_source(page: Page, address: str) -> None:
    several_statements(page)
    record = record_of(page, address)
    texts = [source["text"] for source in record["sources"]]  # type: ignore[attr-defined]
    rows = page.locator("#matrix tbody tr")
    expect(rows).to_have_count(len(texts))
    assert page.locator("#matrix tbody th").all_inner_texts() == texts
    page.locator("#matrix thead button").nth(1).click()
    expect(page.locator(".statement").nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator("#matrix tbody button").first.click()
    expect(page.locator("#findings-heading")).to_have_text("Used by")


def test_exports_are_files_that_stand_alone(page: Page, browser: Browser, tmp_path: Path) -> None:
    ask(page)
    best = best_source(page)
    with page.expect_download() as waiting:
        page.locator("#export-json").click()
    waiting.value.save_as(tmp_path / "answer.json")
    saved = json.loads((tmp_path / "answer.json").read_text())
    assert saved["documents"] == [{"text": CONTEXT}]
    assert saved["attributions"][0]["sources"][0]["text"] == best
    with page.expect_download() as waiting:
        page.locator("#export-html").click()
    waiting.value.save_as(tmp_path / "answer.html")
    assert waiting.value.suggested_filename == f"{saved['generation']['id']}.html"
    alone = browser.new_page(offline=True)
    alone.goto((tmp_path / "answer.html").as_uri())
    expect(alone.locator("#ranking li").first).to_contain_text(best)
    alone.close()


def test_documents_are_opened_dropped_added_and_removed(page: Page) -> None:
    page.locator("#files").set_input_files(
        [
            {"name": "a.md", "mimeType": "text/markdown", "buffer": b"The lift is out of order."},
            {"name": "b.txt", "mimeType": "text/plain", "buffer": CONTEXT.encode()},
        ]
    )
    texts = page.locator("#documents textarea")
    expect(texts).to_have_count(2)
    expect(page.locator("#documents .title").first).to_have_value("a.md")
    dropped = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['Dropped.'], 'c.txt'));"
        "return d; }"
    )
    page.locator("#editor").dispatch_event("drop", {"dataTransfer": dropped})
    expect(texts).to_have_count(3)
    expect(texts.nth(2)).to_have_value("Dropped.")
    page.locator("#files").set_input_files(
        {"name": "picture.txt", "mimeType": "text/plain", "buffer": b"\xff\xfe\x00"}
    )
    expect(page.locator("#notice")).to_contain_text("picture.txt is not a text")
    page.locator(".remove").first.click()
    expect(texts).to_have_count(2)
    expect(texts.first).to_have_value(CONTEXT)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_in_the_way_of_assistive_technology(
    browser: Browser, address: str, scheme: str
) -> None:
    with browsers.visit(browser, address, **DESK, color_scheme=scheme) as page:
        expect(page.locator(".chip").first).to_be_visible()
        assert browsers.violations(page) == []
        several_statements(page)
        page.locator("#verify").click()
        expect(page.locator("#findings .summary")).to_be_visible()
        assert browsers.violations(page) == []
        page.locator("#context mark").first.click()
        expect(page.locator("#findings-heading")).to_have_text("Used by")
        assert browsers.violations(page) == []


def test_a_phone_shows_everything_in_one_column(browser: Browser, address: str) -> None:
    with browsers.visit(browser, address, **PHONE) as page:
        several_statements(page)
        page.locator(".statement").nth(1).tap()
        expect(page.locator(".statement").nth(1)).to_have_attribute("aria-pressed", "true")
        widths = page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1]
        answer, context = (
            page.locator(name).bounding_box() for name in ("#answer-section", "#context")
        )
        assert answer is not None and context is not None
        assert answer["y"] + answer["height"] <= context["y"] < answer["y"] + answer["height"] + 500
        assert browsers.violations(page) == []


def test_light_and_dark_follow_the_system_until_they_are_chosen(
    browser: Browser, address: str
) -> None:
    def paper(page: Page) -> str:
        color: str = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        return color

    with browsers.visit(browser, address, color_scheme="dark") as page:
        dark = paper(page)
        expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
        page.locator("#theme").click()
        light = paper(page)
        page.reload()
        assert paper(page) == light != dark


def failing(status: int, headers: dict[str, str]) -> Callable[[Route], None]:
    """What answers in the server's place, with an error of the API's shape."""
    error = {"message": "no", "type": "server_error", "param": None, "code": None}
    return lambda route: route.fulfill(status=status, headers=headers, json={"error": error})


def test_errors_are_sentences_to_act_on(page: Page) -> None:
    expect(page.locator(".chip").first).to_be_visible()
    page.locator("#ask").click()
    expect(page.locator("#notice")).to_contain_text("There is no context yet")
    for status, headers, words in (
        (429, {"Retry-After": "7"}, "busy with other requests. Try again in 7 seconds"),
        (503, {}, "cannot answer just now. Try again in a moment"),
        (504, {}, "took longer than the server allows"),
    ):
        page.route("**/generate", failing(status, headers), times=1)
        page.locator("#documents textarea").fill(CONTEXT)
        page.locator("#question").fill(QUERY)
        page.locator("#ask").click()
        expect(page.locator("#notice")).to_contain_text(words)
        page.locator("#edit").click()
    page.route("**/generate", lambda route: route.abort(), times=1)
    page.locator("#ask").click()
    expect(page.locator("#notice")).to_contain_text("cannot be reached")
    page.goto("/?id=gen-unknown")
    expect(page.locator("#notice")).to_contain_text("no longer kept")


def test_an_error_in_the_middle_of_an_answer_is_told_and_keeps_the_text(page: Page) -> None:
    error = {"message": "no", "type": "server_error", "param": None, "code": "deadline_exceeded"}
    events = [{"type": "delta", "text": "On Satur"}, {"error": error}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/generate",
        lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
        times=1,
    )
    page.locator(".chip").first.click()
    expect(page.locator("#notice")).to_contain_text("took longer than the server allows")
    expect(page.locator("#answer")).to_have_text("On Satur")
    expect(page.locator("#ask")).to_be_enabled()


def test_going_back_shows_the_answer_before(page: Page) -> None:
    ask(page)
    first, best = page.locator("#answer").inner_text(), best_source(page)
    several_statements(page)
    page.go_back()
    expect(page.locator("#answer")).to_have_text(first)
    expect(page.locator("#question")).to_have_value(QUERY)
    expect(page.locator("#findings .source").first).to_contain_text(best)
    page.go_back()
    expect(page.locator("#documents textarea")).to_have_value(CONTEXT)


def test_an_answer_can_be_stopped_and_asked_again(page: Page) -> None:
    held: list[Route] = []
    page.route("**/generate", lambda route: held.append(route), times=1)  # never answered
    page.locator(".chip").first.click()
    expect(page.locator("#ask")).to_be_disabled()
    page.locator("#stop").click()
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    page.locator("#ask").click()
    expect(page.locator("#findings .source").first).to_be_visible()
    assert len(held) == 1


def test_choosing_while_scores_are_measured_loses_nothing(page: Page) -> None:
    held: list[Route] = []
    page.route("**/attribute", lambda route: held.append(route), times=1)
    send(page, query=LONG_QUERY)
    second = page.locator(".statement").nth(1)
    second.click()
    expect(page.locator("#findings .subject")).to_contain_text(second.inner_text()[:SHOWN])
    held[0].continue_()
    expect(page.locator("#matrix tbody tr").first).to_be_visible()
    expect(second).to_have_attribute("aria-pressed", "true")
    assert max(marks(page).values()) == 1.0


def test_links_outlive_the_server_and_a_key_is_asked_for(
    browser: Browser, page: Page, address: str, store: Path
) -> None:
    ask(page)
    link = page.url.removeprefix(address)
    answer, best = page.locator("#answer").inner_text(), best_source(page)
    shares = marks(page)
    with (  # another process, which has only the file
        tiny_server(AT2_STORE=str(store), AT2_API_KEYS=KEY) as (_, other),
        browsers.visit(browser, other, link) as later,
    ):
        dialog = later.locator("#key-dialog")
        expect(dialog).to_be_visible()
        assert browsers.violations(later) == []
        later.locator("#key-input").fill("not-the-right-key")
        later.keyboard.press("Enter")
        expect(dialog).to_contain_text("does not know this API key")
        later.locator("#key-input").fill(KEY)
        later.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(later.locator("#answer")).to_have_text(answer)
        expect(later.locator("#findings .source").first).to_contain_text(best)
        expect(later.locator("#context")).to_have_text(CONTEXT)
        expect(later.locator("#question")).to_have_value(QUERY)
        assert marks(later) == shares
        with later.expect_download() as waiting:
            later.locator("#export-html").click()
        assert waiting.value.suggested_filename.endswith(".html")
        kept = later.evaluate("() => [JSON.stringify(localStorage), document.cookie]")
        assert kept == ["{}", ""]
        assert later.evaluate("() => Object.values(sessionStorage)") == [KEY]
