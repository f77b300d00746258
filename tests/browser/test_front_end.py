"""A front end of fufan's kind in Chromium, with the package that it reads streams with."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

from playwright.async_api import Browser, Route, expect

from tests.browser.conftest import TOKENS_PER_SECOND
from tests.browser.visitor import PASSWORD, visitor
from tests.end_to_end.prompts_kept import prompts_of
from tests.end_to_end.served import Gateway

WRONG = "用户名或密码错误。"

# EventSource's readyState.
CLOSED = 2

# What somebody else could try with the ids of a user and his conversation.
THEIRS: list[tuple[str, str, Any]] = [
    ("GET", "/api/conversations/{conversation}/messages", None),
    ("PUT", "/api/conversations/{conversation}/update_name", {"name": "stolen"}),
    ("DELETE", "/api/conversations/{conversation}", None),
    ("GET", "/api/users/{user}/conversations", None),
    ("POST", "/api/conversations", {"user_id": "{user}", "name": "x", "chat_type": "general_chat"}),
    ("POST", "/api/chat", {"query": "what was said?", "conversation_id": "{conversation}"}),
    ("POST", "/chat/chat", {"query": "what?", "conversation_id": "{conversation}", "history_len": 9}),
]


async def rows(gateway: Gateway, where: str, *values: object) -> list[dict[str, Any]]:
    return await asyncio.to_thread(gateway.rows, where, *values)


async def test_from_registering_to_deleting(gateway: Gateway, browser: Browser) -> None:
    async with visitor(browser, gateway.base_url) as someone:
        await someone.login("小明", PASSWORD)
        await someone.is_told(WRONG)
        await someone.register("小明")
        assert await someone.conversations() == []

        questions = ["你好👋 {input}", "{{ 1+1 }}\\n是多少？", "再见"]
        ids = [await someone.answered(question) for question in questions]
        await expect(someone.page.locator("#conversations li")).to_have_count(1)
        ((conversation, name),) = await someone.conversations()
        assert name == questions[0]

        # He was remembered: each turn has those before, and is its own row of his.
        stored = await rows(gateway, "conversation_id = $1", conversation)
        prompts = prompts_of(gateway.data_dir / "prompts")
        said = ""
        for turn, (row, question) in enumerate(zip(stored, questions, strict=True)):
            assert row["id"].hex == ids[turn]
            assert (row["query"], row["response"], row["status"]) == (question, question, "completed")
            assert prompts[ids[turn]] == said + question
            assert (row["meta_data"]["turns"], row["prompt_tokens"]) == (turn, len(said + question))
            assert row["user_id"].hex == (await someone.user_id()).replace("-", "")
            said += question + question

        # Each question was sent once, without the token, and no end of a stream was taken for a failure.
        assert len(someone.chats) == len(questions)
        for chat in someone.chats:
            assert "authorization" not in await chat.all_headers()
            assert (await chat.response()).headers["content-type"].startswith("text/event-stream")  # type: ignore[union-attr]

        await someone.page.click("#new")
        await someone.answered("第二个问题")
        await expect(someone.page.locator("#conversations li")).to_have_count(2)
        assert [name for _, name in await someone.conversations()] == ["第二个问题", questions[0]]

        entry = someone.conversation(conversation).locator("input")
        async with someone.page.expect_response("**/update_name") as renamed:
            await entry.fill("改名 <b>")
            await entry.blur()
        assert (await renamed.value).ok

        # Whoever comes again is still known, and finds all.
        await someone.page.reload()
        await expect(someone.page.locator("#conversations li")).to_have_count(2)
        assert (conversation, "改名 <b>") in await someone.conversations()
        await someone.conversation(conversation).locator(".open").click()
        await expect(someone.page.locator("#bubbles p")).to_have_count(6)
        assert await someone.bubbles() == [text for question in questions for text in (question, question)]
        assert (await someone.answered("还在吗？")) in [
            row["id"].hex for row in await rows(gateway, "conversation_id = $1", conversation)
        ]

        await someone.conversation(conversation).locator(".delete").click()
        await expect(someone.page.locator("#conversations li")).to_have_count(1)
        assert [name for _, name in await someone.conversations()] == ["第二个问题"]
        assert await rows(gateway, "conversation_id = $1", conversation) == []


async def test_a_second_user_sees_and_changes_nothing_of_the_first(
    gateway: Gateway, browser: Browser
) -> None:
    async with (
        visitor(browser, gateway.base_url) as first,
        visitor(browser, gateway.base_url) as second,
        visitor(browser, gateway.base_url) as nobody,
    ):
        await first.register("first")
        await second.register("second")
        message = await first.answered("secret")
        await expect(first.page.locator("#conversations li")).to_have_count(1)
        ((conversation, _),) = await first.conversations()
        await second.page.reload()
        await second.answered("mine")
        await expect(second.page.locator("#conversations li")).to_have_count(1)
        assert [name for _, name in await second.conversations()] == ["mine"]

        user = await first.user_id()
        unknown = uuid4().hex
        for method, path, body in THEIRS:
            status, foreign = await second.asks_directly(method, *filled(path, body, conversation, user))
            assert status == foreign["code"] == 404, (method, path, foreign)
            if "chat" not in path:
                # It is answered like what is not there; a chat would begin that.
                nothing = await second.asks_directly(method, *filled(path, body, unknown, unknown))
                assert nothing == (status, foreign)
            status, refused = await nobody.asks_directly(method, *filled(path, body, conversation, user))
            assert status == refused["code"] == 401, (method, path, refused)
        score = {"message_id": message, "score": 1}
        assert (await second.asks_directly("POST", "/chat/feedback", score))[1]["code"] == 404
        assert (await nobody.asks_directly("POST", "/chat/feedback", score))[1]["code"] == 401

        await first.page.reload()
        await expect(first.page.locator("#conversations li")).to_have_count(1)
        assert await first.conversations() == [(conversation, "secret")]
        (row,) = await rows(gateway, "conversation_id = $1", conversation)
        assert (row["id"].hex, row["feedback_score"]) == (message, -1)


def filled(path: str, body: Any, conversation: str, user: str) -> tuple[str, Any]:
    """A request with its ids."""
    asked = json.dumps(body).replace("{conversation}", conversation).replace("{user}", user)
    return path.format(conversation=conversation, user=user), json.loads(asked)


async def test_a_failure_on_the_way_reaches_the_page_and_is_not_tried_again(
    gateway: Gateway, browser: Browser
) -> None:
    async with visitor(browser, gateway.base_url) as someone:
        await someone.register("unlucky")
        await someone.page.clock.install()
        await someone.page.route("**/api/chat", soon_too_late)
        await someone.ask("long " * 4 * TOKENS_PER_SECOND)
        await expect(someone.page.locator("#notice")).to_contain_text("longer than 2 seconds")
        answer = someone.page.locator(".answer")
        await expect(answer).to_contain_class("closed")
        await expect(answer).to_contain_text("long")
        # fetch-event-source comes again after a second, where it does.
        await someone.page.clock.run_for(60_000)
        assert len(someone.chats) == 1
        (row,) = await rows(gateway, "id = $1::text::uuid", await answer.get_attribute("data-message-id"))
        assert row["status"] == "timeout"
        assert row["response"] == await answer.text_content()


async def soon_too_late(route: Route) -> None:
    await route.continue_(headers=route.request.headers | {"x-request-timeout": "2"})


async def test_a_refusal_reaches_the_page_and_is_not_tried_again(gateway: Gateway, browser: Browser) -> None:
    """fetch-event-source takes all that is no event stream for a lost connection."""
    async with visitor(browser, gateway.base_url) as someone:
        await someone.register("mistaken")
        await someone.page.clock.install()
        await someone.page.route("**/api/chat", of_another_model)
        await someone.ask("hello")
        await expect(someone.page.locator("#notice")).to_contain_text("'gpt-4' is not served here")
        await expect(someone.page.locator(".answer")).to_contain_text("'gpt-4' is not served here")
        await someone.page.clock.run_for(60_000)
        assert len(someone.chats) == 1
        assert [problem for problem in someone.problems if "404" in problem] == someone.problems
        someone.problems.clear()


async def of_another_model(route: Route) -> None:
    body: Any = route.request.post_data_json
    await route.continue_(post_data=body | {"model_name": "gpt-4"})


async def test_whoever_leaves_the_page_ends_the_answer(gateway: Gateway, browser: Browser) -> None:
    async with visitor(browser, gateway.base_url) as someone:
        await someone.register("hasty")
        await someone.ask("long " * 10 * TOKENS_PER_SECOND)
        answer = someone.page.locator(".answer")
        await expect(answer).to_contain_text("long")
        message = await answer.get_attribute("data-message-id")
        await someone.page.close()
        where = "id = $1::text::uuid AND status = 'cancelled'"
        await asyncio.to_thread(gateway.wait_for, lambda: gateway.rows(where, message))


async def test_a_browsers_own_eventsource_does_not_come_again(gateway: Gateway, browser: Browser) -> None:
    """It can only GET, and is told that it may not."""
    async with visitor(browser, gateway.base_url) as someone:
        await someone.register("old-fashioned")
        await someone.page.clock.install()
        state = await someone.page.evaluate(
            "() => new Promise((told) => { const events = new EventSource('/api/chat');"
            " events.onerror = () => told(events.readyState); })"
        )
        await someone.page.clock.run_for(60_000)
        assert (state, len(someone.chats)) == (CLOSED, 1)
        assert [problem for problem in someone.problems if "405" in problem] == someone.problems
        someone.problems.clear()
