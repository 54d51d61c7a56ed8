"""For every test here: properties are judged by what they find, never by how long a busy machine takes to look."""

from hypothesis import HealthCheck, settings

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")
