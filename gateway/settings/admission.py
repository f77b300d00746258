"""How much the engine is given at once, and who waits how long for a place there."""

from __future__ import annotations

from gateway.settings.fields import Section


class Admission(Section):
    """How much the engine is given at once, and who waits how long for a place there."""
