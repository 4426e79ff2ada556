"""What visitors of the page do, and what they see."""

import re
from typing import Any

import httpx
from playwright.sync_api import Page, expect

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
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
}
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
LIMIT_S = 60


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
        f"{address}/generations/{found[1]}", timeout=LIMIT_S
    ).json()
    return reply
