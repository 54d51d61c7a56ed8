"""What a controller was told, and the kinds of objects that it works with."""

from __future__ import annotations

from dataclasses import dataclass

from nvdra.api.compute_domain import GROUP, VERSION
from nvdra.domains.templates import DaemonSettings
from nvdra.ports import Resource

DOMAINS = Resource(GROUP, VERSION, "computedomains", namespaced=True)
CLIQUES = Resource(GROUP, VERSION, "computedomaincliques", namespaced=True)
DAEMON_SETS = Resource("apps", "v1", "daemonsets", namespaced=True)
PODS = Resource("", "v1", "pods", namespaced=True)
NODES = Resource("", "v1", "nodes", namespaced=False)
EVENTS = Resource("", "v1", "events", namespaced=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", namespaced=True)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False)
TEMPLATES = "resourceclaimtemplates"  # in the server's version of resource.k8s.io


@dataclass(frozen=True, slots=True)
class Settings:
    """What a controller was told.

    additional   namespaces besides the driver's in which daemons of another installation may run
    coalesce_s   changes of one domain within this time are worked on together
    spare_s      how long an entry outlives its pod, so that a pod that follows soon gets the same index
    sweep_s      how often every domain is looked at without a change
    """

    daemons: DaemonSettings
    additional: tuple[str, ...] = ()
    is_host_managed: bool = False
    coalesce_s: float = 0.02
    spare_s: float = 1.5
    sweep_s: float = 600.0

    @property
    def namespace(self) -> str:
        return self.daemons.namespace

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The driver's namespace, then the additional ones."""
        return tuple(dict.fromkeys((self.namespace, *self.additional)))
