"""Somebody with a browser of his own, and the page that this folder has for him."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Locator, Page, Request, Route, expect

FOLDER = Path(__file__).parent
WEB_ROOT = FOLDER / "page"
PACKAGES = FOLDER / "node_modules"
PASSWORD = "correct horse"

# A page that is on a busy machine may take longer than the 5 s that are usual.
MILLISECONDS = 60_000
expect.set_options(timeout=MILLISECONDS)


def missing() -> str | None:
    """What is not there to run these tests with."""
    if chromium() is None:
        return "Chromium is not installed"
    if not (PACKAGES / "@microsoft" / "fetch-event-source").is_dir():
        return "@microsoft/fetch-event-source is not installed: make test does it where npm is"
    return None


def chromium() -> str | None:
    """The browser's program."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Visitor:
    """``problems`` is all that the browser's console has to complain of, unhandled rejections included;
    ``chats`` the chat requests that it has sent."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        self.chats: list[Request] = []
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda sent: self.chats.append(sent) if sent.url.endswith("/api/chat") else None)

    async def register(self, username: str) -> None:
        """And log in."""
        await self.enter(username, PASSWORD, "register")
        await self.is_told("registered")
        await self.login(username, PASSWORD)
        await expect(self.page.locator("main")).to_be_visible()

    async def login(self, username: str, password: str) -> None:
        await self.enter(username, password, "login")

    async def enter(self, username: str, password: str, button: str) -> None:
        await self.page.fill("[name=username]", username)
        await self.page.fill("[name=password]", password)
        await self.page.click(f"button[name={button}]")

    async def is_told(self, text: str) -> None:
        """Wait for a notice."""
        await expect(self.page.locator("#notice")).to_have_text(text)

    async def ask(self, query: str) -> None:
        """Send a question; does not wait for the answer."""
        await self.page.fill("[name=query]", query)
        await self.page.press("[name=query]", "Enter")

    async def answered(self, query: str) -> str:
        """The id of a question's answer."""
        answers = self.page.locator(".answer")
        count = await answers.count()
        await self.ask(query)
        answer = answers.nth(count)
        await expect(answer).to_contain_class("closed")
        await expect(answer).to_have_text(query)
        return await answer.get_attribute("data-message-id") or ""

    def conversation(self, conversation_id: str) -> Locator:
        return self.page.locator(f'[data-id="{conversation_id}"]')

    async def conversations(self) -> list[tuple[str, str]]:
        """Ids and names, as they are listed."""
        listed = await self.page.locator("#conversations li").all()
        return [
            (await one.get_attribute("data-id") or "", await one.locator("input").input_value())
            for one in listed
        ]

    async def bubbles(self) -> list[str]:
        return await self.page.locator("#bubbles p").all_text_contents()

    async def user_id(self) -> str:
        """What the page keeps as its token."""
        cookies = await self.page.context.cookies()
        return next(cookie["value"] for cookie in cookies if cookie["name"] == "token")

    async def asks_directly(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of a request with this visitor's cookies that his page would not send."""
        answer = await self.page.request.fetch(path, method=method, data=body)
        return answer.status, await answer.json()


@asynccontextmanager
async def visitor(browser: Browser, base_url: str) -> AsyncIterator[Visitor]:
    """One who has just come to the page; his browser has nothing to complain of in the end."""
    async with await browser.new_context(base_url=base_url) as context:
        context.set_default_timeout(MILLISECONDS)
        page = await context.new_page()
        # The package as it is published: its modules name each other without ".js".
        await page.route("/npm/**", package)
        found = Visitor(page)
        await page.goto("/#/login")
        yield found
        assert found.problems == []


async def package(route: Route) -> None:
    """A module of an npm package."""
    name = route.request.url.partition("/npm/")[2]
    await route.fulfill(path=PACKAGES / f"{name}.js", content_type="text/javascript")
