"""What all stages of a domain's work share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nvdra.controller.caches import Caches
from nvdra.controller.events import Events
from nvdra.controller.settings import Settings
from nvdra.kube import ResourceApi
from nvdra.ports import Clock, Kube


@dataclass(frozen=True, slots=True)
class Context:
    """Dependencies of the stages.

    again           work on a domain again after this many seconds
    has_conditions  whether the installed CRD's status has conditions
    """

    api: ResourceApi
    clock: Clock
    settings: Settings
    caches: Caches
    events: Events
    again: Callable[[str, float], None]
    has_conditions: Callable[[], bool]

    @property
    def kube(self) -> Kube:
        return self.api.kube
