"""The page in a real browser: for everybody, on any screen, and when something goes wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.helpers import browser as browsers
from tests.helpers.page_visits import (
    CONTEXT,
    DESK,
    LONG_QUERY,
    PHONE,
    QUERY,
    SHOWN,
    ask,
    best_source,
    marks,
    send,
    several_statements,
)
from tests.helpers.tiny import tiny_server

pytestmark = browsers.NEEDED

KEY = "a-key-of-some-length"


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


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("deadline_exceeded", "server_error", "took longer than the server allows"),
        ("generator_unavailable", "server_error", "The server cannot answer just now"),
        ("invalid_value", "invalid_request_error", "The server refused this: no."),
    ],
)
def test_an_error_in_the_middle_of_an_answer_is_told_and_keeps_the_text(
    page: Page, code: str, kind: str, words: str
) -> None:
    error = {"message": "no", "type": kind, "param": None, "code": code}
    events = [{"type": "delta", "text": "On Satur"}, {"error": error}]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/generate",
        lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
        times=1,
    )
    page.locator(".chip").first.click()
    expect(page.locator("#notice")).to_contain_text(words)
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
    browser: Browser, page: Page, address: str, records_file: Path
) -> None:
    ask(page)
    link = page.url.removeprefix(address)
    answer, best = page.locator("#answer").inner_text(), best_source(page)
    shares = marks(page)
    with (  # another process, which has only the file
        tiny_server(AT2_STORE=str(records_file), AT2_API_KEYS=KEY) as (_, other),
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
