"""Who answers requests, as spans call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from gateway.settings import Settings
from gateway.settings.fallbacks import NOTICE, UpstreamSettings


@dataclass(frozen=True, slots=True)
class Answerer:
    """``provider`` is gen_ai.provider.name: vllm and simulated for the engines in this process; for another
    server the API that it speaks, as it is not known what is behind it. ``model``: what it calls the model,
    None where it has the name that the gateway serves."""

    provider: str
    kind: SpanKind = SpanKind.INTERNAL
    model: str | None = None
    address: Mapping[str, AttributeValue] = field(default_factory=dict)


def answerers(settings: Settings) -> dict[str | None, Answerer]:
    """By the name that rows know fallbacks by; None is the engine's own."""
    found: dict[str | None, Answerer] = {NOTICE: Answerer("notice")}
    found |= {fallback.name: _server(fallback) for fallback in settings.fallbacks}
    if settings.engine == "upstream":
        found[None] = _server(settings.main_upstream)
    else:
        found[None] = Answerer(settings.engine)
    return found


def _server(upstream: UpstreamSettings) -> Answerer:
    parts = urlsplit(upstream.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address: dict[str, AttributeValue] = {"server.address": parts.hostname or "", "server.port": port}
    return Answerer(upstream.dialect, SpanKind.CLIENT, upstream.model, address)
