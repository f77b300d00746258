"""From an OpenAI conversation to ChatGLM3's turns.

A turn is a role, a header (the tool's name, or nothing) and a content. Source of the rules: PROMPT.md of
ChatGLM3 (github.com/zai-org/ChatGLM3): a system turn stands at the start only, no user's turn follows
another, the assistant's needs a user's before it, an observation follows an assistant's turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from adapters.chat_format import Conversation, UnrenderablePrompt
from adapters.chatglm3.calls import INTERPRETER, write_call, write_code
from adapters.chatglm3.tools import code_argument, system_text
from engine.base import ChatMessage, Tool, ToolCall

Role = Literal["system", "user", "assistant", "observation"]

SYSTEM = ("system", "developer")
RESULT = ("tool", "function")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn; ``header`` is empty but for a tool call, where it is the tool's name."""

    role: Role
    content: str
    header: str = ""


def turns(conversation: Conversation) -> list[Turn]:
    """The conversation as the model was trained to see it. Raises UnrenderablePrompt."""
    messages, tools = conversation.messages, conversation.tools
    check_roles(messages)
    check_last(conversation)
    system = [message.content for message in messages if message.role in SYSTEM]
    text = system_text("\n".join(system) if system else None, tools)
    start = [] if text is None else [Turn("system", text)]
    return start + list(_dialogue(messages, tools))


def check_roles(messages: Sequence[ChatMessage]) -> None:
    """Raises UnrenderablePrompt that names the first message which breaks a rule."""
    before: str | None = None
    had_user = False
    for index, message in enumerate(messages):
        role = "system" if message.role in SYSTEM else "tool" if message.role in RESULT else message.role
        match role:
            case "system" if before not in (None, "system"):
                _refuse(index, "a system message may only stand at the start of the conversation")
            case "user" if before == "user":
                _refuse(index, "a user message may not follow another user message")
            case "assistant" if not had_user:
                _refuse(index, "an assistant message needs a user message before it")
            case "tool" if before not in ("assistant", "tool"):
                _refuse(index, "a tool's message needs an assistant message with a tool call before it")
        had_user = had_user or role == "user"
        before = role


def check_last(conversation: Conversation) -> None:
    """Raises UnrenderablePrompt where what is asked for can't come after the last message."""
    last = conversation.messages[-1] if conversation.messages else None
    if conversation.continue_final_message:
        field = "continue_final_message"
        if conversation.add_generation_prompt:
            raise UnrenderablePrompt(f"'{field}' and 'add_generation_prompt' can't both be true.", field)
        if last is None or last.role != "assistant":
            raise UnrenderablePrompt(f"'{field}' needs an assistant's message as the last one.", field)
        if last.tool_calls:
            raise UnrenderablePrompt(f"'{field}' can't continue a message with tool calls.", field)
    elif conversation.add_generation_prompt and (last is None or last.role not in ("user", *RESULT)):
        rule = "the last message must be the user's or a tool's, unless 'continue_final_message' is true"
        _refuse(len(conversation.messages) - 1, rule)


def _refuse(index: int, rule: str) -> NoReturn:
    raise UnrenderablePrompt(f"Invalid 'messages[{index}]': {rule}.", f"messages.{index}")


def _dialogue(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> Iterator[Turn]:
    """The turns after the system's. A result stands behind its call, also where several calls were made
    at once: the model knows them one by one."""
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        if message.role == "user":
            yield Turn("user", message.content)
        elif message.role == "assistant":
            first_result = index
            while index < len(messages) and messages[index].role in RESULT:
                index += 1
            yield from _assistant(message, messages, range(first_result, index), tools)


def _assistant(
    message: ChatMessage, messages: Sequence[ChatMessage], results: range, tools: Sequence[Tool]
) -> Iterator[Turn]:
    """An assistant's message, and the results that follow it."""
    if message.content or not message.tool_calls:
        yield Turn("assistant", message.content)
    of_call = _results_by_call(message.tool_calls, messages, results)
    for position, call in enumerate(message.tool_calls):
        yield _call_turn(call, tools)
        for result in of_call[position]:
            yield Turn("observation", result)


def _results_by_call(
    calls: Sequence[ToolCall], messages: Sequence[ChatMessage], results: range
) -> list[list[str]]:
    """For each call, its results. A result without the id of a call belongs to the first call of its name
    that has none, or the first that has none. Raises UnrenderablePrompt for a result of no call."""
    found: list[list[str]] = [[] for _ in calls]
    for index in results:
        result = messages[index]
        candidates = [
            position
            for position, call in enumerate(calls)
            if (call.id == result.tool_call_id if result.tool_call_id else not found[position])
        ]
        named = [position for position in candidates if calls[position].name == result.name]
        if not candidates:
            wanted = f" with the id '{result.tool_call_id}'" if result.tool_call_id else ""
            _refuse(index, f"the assistant message before it has no tool call{wanted} that it answers")
        found[(named or candidates)[0]].append(result.content)
    return found


def _call_turn(call: ToolCall, tools: Sequence[Tool]) -> Turn:
    arguments = _arguments(call)
    if call.name == INTERPRETER:
        tool = next((tool for tool in tools if tool.name == INTERPRETER), Tool(INTERPRETER, {}))
        code = arguments.get(code_argument(tool))
        if isinstance(code, str):
            return Turn("assistant", write_code(code), INTERPRETER)
    return Turn("assistant", write_call(arguments), call.name)


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments, parse_constant=_no_number) if call.arguments.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise UnrenderablePrompt(
            f"The arguments of the call of '{call.name}' are not a JSON object.", "messages"
        )
    return arguments


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
