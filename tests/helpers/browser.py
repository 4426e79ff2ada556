"""A real browser for tests of the page: the system's Chromium, driven by Playwright.

Nothing is downloaded. Every page fails its test on a script error, on anything that the content
security policy stops, and on any request that leaves the server.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Path of the browser, or None where there is none."""

NEEDED = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here"
)
"""Marks the tests of a file that needs it."""

_PATIENCE_MS = 60_000

_EXPECTED = "Failed to load resource"
"""What the console says of every reply that is an error; the page says it in words."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    assert CHROMIUM is not None
    expect.set_options(timeout=_PATIENCE_MS)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, address: str, path: str = "/", **options: Any) -> Iterator[Page]:
    """A page of its own at a server's address; on leaving, nothing may have gone wrong in it."""
    context = browser.new_context(base_url=address, reduced_motion="reduce", **options)
    context.set_default_timeout(_PATIENCE_MS)
    wrong: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _EXPECTED not in message.text:
            wrong.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith((address, "blob:", "data:")):
            wrong.append(f"request to {request.url}")

    page = context.new_page()
    page.on("console", on_console)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", on_request)
    try:
        page.goto(path)
        yield page
        assert wrong == []
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page for people who do not see it or use no mouse."""
    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html']} {node.get('failureSummary', '')}"
        for violation in found
        for node in violation["nodes"]
    ]
