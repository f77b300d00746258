"""Who answers where the engine does not."""

from __future__ import annotations

from gateway.settings.fields import Section


class Fallbacks(Section):
    """Who answers where the engine does not."""
