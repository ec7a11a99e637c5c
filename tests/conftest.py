"""What holds for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# A loaded machine makes single examples slow, which says nothing about the code.
settings.register_profile("atelier", deadline=None)
settings.load_profile("atelier")
