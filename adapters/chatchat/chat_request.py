"""The bodies of Chatchat's own chat routes, and what they mean in OpenAI's terms.

Source: server/chat/chat.py and completion.py of Langchain-Chatchat 0.2.9 to 0.2.final
(github.com/chatchat-space/Langchain-Chatchat), and /api/chat of fufan-chat-api, a fork of it. As there, null
is as good as absent for every field that may be left out, other fields are ignored, and a value may be
written as another type that says the same: ``"0.5"``, ``"12"``, ``"yes"``, a number for a text. A fraction
is no number of tokens, though: 12.9 was cut there, and is refused here.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from adapters.chatchat.events import StreamStyle
from adapters.chatchat.fufan import GENERAL_CHAT
from adapters.chatchat.parameters import ChatchatFields, Turns
from adapters.field_origin import chatchat, fufan, own
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.messages import Message

TEMPERATURE = 0.7
COMPLETION_TOKENS = 1024
GENERAL_CHAT_TURNS = 10

LAX = ConfigDict(strict=False, extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)


class Question(BaseModel):
    """What all of these bodies share."""

    model_config = LAX

    query: str = Field(
        description="The question, put into its prompt template. (Chatchat)",
        json_schema_extra={"x-origin": "Chatchat"},
    )
    model_name: str | None = chatchat("The served model. Default: the one that is served.")
    stream_style: StreamStyle | None = own(
        "With stream=true: whether an event has what is new (delta), or the whole text so far (cumulative). "
        "Default: the gateway's setting stream_style, which is delta."
    )

    @property
    def sent_names(self) -> dict[str, str]:
        """What this body calls fields that have another name in OpenAI's bodies."""
        return {"messages": "query", "prompt": "query", "model": "model_name"}


class ChatRequest(Question, ChatchatFields):
    """POST /chat/chat."""

    model_config = LAX

    stream: bool | None = chatchat(
        "One event for each piece of the answer. Default: false, one event for all of it."
    )
    temperature: float | None = chatchat(
        "Sampling temperature, 0 to 2; 0 is greedy. Default: 0.7.", ge=0, le=2
    )
    max_tokens: int | None = chatchat(
        "Most tokens of the answer; 0 and below are as good as null. Default: the rest of the context."
    )

    @property
    def streams(self) -> bool:
        """Whether the answer comes piece by piece."""
        return bool(self.stream)

    @property
    def as_openai(self) -> ChatCompletionRequest:
        """The same as a body of /v1/chat/completions; all of it has been checked here."""
        return ChatCompletionRequest.model_construct(
            messages=[Message.model_construct(role="user", content=self.query)],
            model=self.model_name,
            stream=self.streams,
            temperature=TEMPERATURE if self.temperature is None else self.temperature,
            max_tokens=self.max_tokens,
            conversation_id=self.conversation_id,
            prompt_name=self.prompt_name,
            history=self.history,
            history_len=self.history_len,
        )


class FufanChatRequest(ChatRequest):
    """POST /api/chat."""

    stream: bool | None = fufan(
        "true: server-sent events, one for each piece of the answer; false: JSON. Default: true."
    )
    prompt_name: str | None = fufan(
        "The prompt template, of the type llm_chat, that the query is put into; the turns of a conversation "
        "are told apart by it. Default: 'general_chat'."
    )
    history_len: Turns | None = fufan(
        "How many of the last stored turns of conversation_id come before, up to 1000; 0 and below: none. "
        "Not used with a list as history. Default: 10, where there is no history either."
    )
    user_id: str | None = fufan("The user whose request it is. Default: the caller.")
    conversation_name: str | None = fufan(
        "What a conversation is called that is not known yet; cut to 50 characters. Default: its first query."
    )

    @property
    def streams(self) -> bool:
        """Whether the answer comes piece by piece."""
        return self.stream is not False

    @property
    def template_name(self) -> str:
        """What ``prompt_name`` names; turns are told apart by it."""
        return GENERAL_CHAT if self.prompt_name is None else self.prompt_name

    @property
    def as_openai(self) -> ChatCompletionRequest:
        """The same as a body of /v1/chat/completions."""
        body = super().as_openai
        body.prompt_name = self.template_name
        if not self.asks_for_history:
            body.history_len = GENERAL_CHAT_TURNS
        return body

    @property
    def asks_for_history(self) -> bool:
        """Whether the client says itself what comes before. An empty list says nothing, as in Chatchat."""
        return self.history_len is not None or (self.history is not None and self.history != [])

    @property
    def sent_names(self) -> dict[str, str]:
        """What this body calls fields that have another name in OpenAI's bodies; stored turns that nobody
        has asked for come with the conversation."""
        return super().sent_names | ({} if self.asks_for_history else {"history_len": "conversation_id"})


class TextRequest(Question):
    """POST /other/completion."""

    stream: bool | None = chatchat(
        "One event for each piece of the text. Default: false, one event for all of it."
    )
    echo: bool | None = chatchat(
        "Repeat the prompt, in its template, before the text; in a stream as an event of its own. "
        "Default: false."
    )
    temperature: float | None = chatchat(
        "Sampling temperature, 0 to 1; 0 is greedy. Default: 0.7.", ge=0, le=1
    )
    max_tokens: int | None = chatchat(
        "Most tokens of the text; 0 and below: the rest of the context. Default: 1024."
    )
    prompt_name: str | None = chatchat(
        "The prompt template, of the type completion, that the query is put into. Default: 'default'."
    )

    @property
    def as_openai(self) -> CompletionRequest:
        """The same as a body of /v1/completions; all of it has been checked here."""
        limit = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        return CompletionRequest.model_construct(
            prompt=self.query,
            model=self.model_name,
            stream=bool(self.stream),
            echo=self.echo,
            temperature=TEMPERATURE if self.temperature is None else self.temperature,
            # With 0 OpenAI's body asks for the prompt alone.
            max_tokens=limit if limit > 0 else None,
            prompt_name=self.prompt_name,
        )
