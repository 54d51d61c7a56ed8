"""The API server: calls, list and watch.

Objects are passed on as the bytes that the server sent. Errors say what failed; the caller decides about retries.
"""

from nvdra.kube.answers import document
from nvdra.kube.client import HttpKube, Response
from nvdra.kube.config import Access, access
from nvdra.kube.discovery import DRA_GROUP, ResourceApi
from nvdra.kube.follow import Followed, Objects, until
from nvdra.kube.kubeconfig import ConfigError
from nvdra.kube.raw import items, members
from nvdra.kube.throttle import Throttle
from nvdra.kube.versions import from_wire, to_wire
from nvdra.kube.watch import Change, Store, Watcher, pause_s

__all__ = [
    "DRA_GROUP",
    "Access",
    "Change",
    "ConfigError",
    "Followed",
    "HttpKube",
    "Objects",
    "ResourceApi",
    "Response",
    "Store",
    "Throttle",
    "Watcher",
    "access",
    "document",
    "from_wire",
    "items",
    "members",
    "pause_s",
    "to_wire",
    "until",
]
