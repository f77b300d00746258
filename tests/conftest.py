from __future__ import annotations

from hypothesis import settings

# Time limits for single examples only make busy machines fail.
settings.register_profile("house", max_examples=60, deadline=None)
settings.load_profile("house")
