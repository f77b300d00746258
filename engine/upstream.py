"""Another OpenAI-compatible server as an engine: it is handed messages, not ids.

Nothing is awaited in ``submit`` but what can be said at once: the server is asked by the stream's first
``next``, so many choices are asked at the same time and a request can be aborted from the start. What fails
before the first Delta is raised by that ``next``::

    RequestRefused      the server refuses the request (400, 413, 422 ...), or could not be asked it
    EngineOverloaded    it has no room (429, 503), also when asked again; or too many connections are open
    EngineDead          it is away (refused, reset, 502, 504, silent), refuses our key, or the circuit
                        breaker is open: then ``submit`` and ``check`` raise it
    GenerationFailed    it broke on this request (500), or what it answers is no answer

After the first Delta only GenerationFailed is raised. Messages for clients name neither the server's host nor
its key; the log does not have the key either.
"""

from __future__ import annotations

import functools
import http.cookiejar
import json
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from engine.base import (
    EngineDead,
    EngineError,
    GenerationFailed,
    GenerationRequest,
    ModelCard,
    ToolParser,
)
from engine.circuit_breaker import CircuitBreaker
from engine.upstream_answer import a_list, an_object, parsed
from engine.upstream_body import Dialect, path_and_body
from engine.upstream_stream import UpstreamStream, read_body

log = logging.getLogger("engine.upstream")

# Taken for the context of a server that does not tell its own.
UNKNOWN_MODEL_LEN = 32_768

MOST_MODELS_BYTES = 4 * 1024**2
KEEP_ALIVE_SECONDS = 30.0


@functools.cache
def trusted_authorities() -> ssl.SSLContext:
    """Who may say for a server that it is itself; reading them takes long."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server, and how long it may take, in seconds.

    ``url`` is what OpenAI's SDKs call the base URL, with its ``/v1``. ``connect_seconds``: to a connection;
    ``first_byte_seconds``: from the request to a stream's first byte; ``between_seconds``: from one piece to
    the next; ``whole_seconds``: to an answer in one piece. What failed before the first byte is asked again
    up to ``retries`` times. ``sampling_defaults`` are sent where a client gives no value.
    """

    name: str
    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    dialect: Dialect = "openai"
    max_model_len: int | None = None
    connect_seconds: float = 5.0
    first_byte_seconds: float = 60.0
    between_seconds: float = 30.0
    whole_seconds: float = 600.0
    retries: int = 2
    most_connections: int = 256
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)

    def plain(self, text: str) -> str:
        """``text`` without the server's key."""
        return text.replace(self.api_key, "***") if self.api_key else text

    def for_clients(self, text: str) -> str:
        """``text`` without the server's key and address."""
        address = urlsplit(self.url)
        for name in (self.url, address.netloc, address.hostname or ""):
            if name:
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "upstream", text)
        return self.plain(text)


class UpstreamEngine:
    """``upstream`` as an engine. ``asks_models``: its list of models tells, at the start, what the card says
    and the settings do not. ``served_name`` is what clients call the model."""

    tokenizer = None

    def __init__(
        self,
        upstream: Upstream,
        *,
        served_name: str | None = None,
        asks_models: bool = False,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.upstream = upstream
        self.breaker = breaker or CircuitBreaker()
        self._served_name = served_name
        self._asks_models = asks_models
        self._model = upstream.model
        self._max_model_len = upstream.max_model_len
        self._client: httpx.AsyncClient | None = None

    @property
    def card(self) -> ModelCard:
        """Valid after ``start``."""
        return self._card

    @property
    def up(self) -> bool:
        """Whether the server would be asked now."""
        return self.breaker.lets_through

    async def start(self) -> None:
        """Make the client. The server may be away; where its list of models is asked for, the model has to
        be known without it then. Raises EngineError."""
        self._client = self._new_client()
        if self._asks_models and (self._model is None or self._max_model_len is None):
            await self._ask_models(self._client)
        self._card = ModelCard(
            name=self._served_name or self._model or self.upstream.name,
            engine="upstream",
            max_model_len=self._max_model_len or UNKNOWN_MODEL_LEN,
            chat_format="messages",
            sampling_defaults=dict(self.upstream.sampling_defaults),
        )

    async def submit(self, request: GenerationRequest) -> UpstreamStream:
        """Raises RequestRefused for what this server can't be asked, EngineDead while it is not tried."""
        assert self._client is not None
        path, body = path_and_body(
            request, self._model, self.upstream.dialect, self.upstream.sampling_defaults
        )
        if not self.breaker.lets_through:
            raise self._resting()
        asked = self._client.build_request(
            "POST", path, content=json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        )
        asked.headers["content-type"] = "application/json"
        # So that the server's log and ours can be read side by side.
        asked.headers["x-request-id"] = request.request_id
        if request.session_id is not None and self.upstream.dialect == "vllm":
            # A router between us and vLLM's servers goes by it.
            asked.headers["x-session-id"] = request.session_id
        asked.headers.update(request.trace_headers or {})
        calls_many = request.asked is None or request.asked.parallel_tool_calls
        return UpstreamStream(self._client, asked, self.upstream, self.breaker, request.stream, calls_many)

    async def check(self) -> None:
        """Raises EngineDead while the circuit breaker is open."""
        if self.breaker.state == "open":
            raise self._resting()

    def tool_parser(self, name: str) -> ToolParser:
        """Raises EngineError: the server reads tool calls itself."""
        raise EngineError("The upstream server reads tool calls itself.")

    async def shutdown(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    def _resting(self) -> EngineDead:
        return EngineDead(
            f"The upstream '{self.upstream.name}' has failed; it is tried again in "
            f"{self.breaker.pause_seconds:.0f} s."
        )

    def _new_client(self) -> httpx.AsyncClient:
        upstream, seconds = self.upstream, self.upstream.connect_seconds
        # What is read is read as it is: a compressed answer could be of any size.
        headers = {"accept-encoding": "identity", "user-agent": "chatglm-gateway"}
        if upstream.api_key is not None:
            headers["authorization"] = f"Bearer {upstream.api_key}"
        client = httpx.AsyncClient(
            base_url=upstream.url,
            headers=headers,
            timeout=httpx.Timeout(seconds, read=None),
            limits=httpx.Limits(
                max_connections=upstream.most_connections,
                max_keepalive_connections=upstream.most_connections,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
            verify=trusted_authorities(),
            # Neither a proxy nor a .netrc that happens to be there.
            trust_env=False,
            follow_redirects=False,
        )
        # All callers share the client: none may be given another's cookie.
        client.cookies.jar.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        return client

    async def _ask_models(self, client: httpx.AsyncClient) -> None:
        """Learn the model's name and context. Raises EngineError where no name is known then."""
        try:
            models = await self._models(client)
        except (httpx.HTTPError, httpx.InvalidURL, EngineError, TimeoutError) as error:
            said = self.upstream.plain(str(error) or type(error).__name__)
            log.warning("upstream %s does not tell its models: %s", self.upstream.name, said)
            models = {}
        if self._model is None:
            self._model = next(iter(models), None)
        if self._model is None:
            raise EngineError("The upstream does not tell its models: name one with upstream_model.")
        if self._model not in models:
            log.warning("upstream %s does not list the model %s", self.upstream.name, self._model)
        self._max_model_len = self._max_model_len or models.get(self._model)
        if self._max_model_len is None:
            log.warning(
                "upstream %s does not tell its context: %d tokens are taken for it, unless "
                "upstream_max_model_len says more",
                self.upstream.name,
                UNKNOWN_MODEL_LEN,
            )

    async def _models(self, client: httpx.AsyncClient) -> dict[str, int | None]:
        """The context of each model, by its name. Raises httpx.HTTPError, TimeoutError, GenerationFailed."""
        asked = client.build_request("GET", "models")
        status, body = await read_body(client, asked, MOST_MODELS_BYTES, self.upstream.connect_seconds)
        if status != 200:
            raise GenerationFailed(f"status {status}")
        models: dict[str, int | None] = {}
        for entry in map(an_object, a_list(parsed(body).get("data"))):
            length = entry.get("max_model_len")
            # A bool is an int, too.
            told = length if type(length) is int and length > 0 else None
            if isinstance(entry.get("id"), str):
                models[entry["id"]] = told
        return models
