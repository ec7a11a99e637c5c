"""What holds for the whole suite."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A loaded machine makes single examples slow, which says nothing about the code.
settings.register_profile("atelier", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("atelier")
