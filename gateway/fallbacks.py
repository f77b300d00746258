"""Who answers in the engine's place, as the settings say."""

from __future__ import annotations

from engine.ladder import Rung
from engine.notice import NoticeEngine
from engine.upstream import UpstreamEngine
from gateway import metrics
from gateway.settings import Settings
from gateway.settings.fallbacks import NOTICE


def rungs(settings: Settings) -> list[Rung]:
    """In the order in which they are asked, not started; the notice comes last."""
    found: list[Rung] = []
    for fallback in settings.fallbacks:
        engine = UpstreamEngine(fallback.upstream)
        metrics.watch_upstream(fallback.name, engine.breaker)
        found.append(Rung(fallback.name, engine))
    if settings.fallback_notice is not None:
        found.append(Rung(NOTICE, NoticeEngine(settings.fallback_notice), stands_in=False))
    return found
