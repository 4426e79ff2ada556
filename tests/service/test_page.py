"""The page in a real browser, against a real server: answers, their sources, and documents."""

import json
import re
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, Route, expect

from tests.helpers import browser as browsers
from tests.helpers.page_visits import (
    CONTEXT,
    LIMIT_S,
    SHOWN,
    ask,
    best_source,
    marks,
    record_of,
    several_statements,
)

pytestmark = browsers.NEEDED


def test_an_answer_is_written_and_its_source_lights_up(page: Page, address: str) -> None:
    ask(page)
    record = record_of(page, address)
    expect(page.locator("#answer")).to_have_text(str(record["response"]))
    shares = marks(page)
    assert shares[best_source(page)] == 1.0 == max(shares.values())
    reply = httpx.post(
        f"{address}/attribute", json={"id": record["id"], "split_by": "sentence"}, timeout=LIMIT_S
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
