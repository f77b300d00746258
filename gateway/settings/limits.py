"""How much a caller may ask for."""

from __future__ import annotations

from gateway.settings.fields import Section


class Limits(Section):
    """How much a caller may ask for."""
