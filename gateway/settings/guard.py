"""What may not be asked, and not be answered."""

from __future__ import annotations

from gateway.settings.fields import Section


class Guard(Section):
    """What may not be asked, and not be answered."""
