"""kubelet: DRA plugin, registration and health over gRPC.

The program supplies two callbacks. This package adds everything else that kubelet expects: sockets that appear only
when they answer, both versions of the service, an answer for every claim, an orderly shutdown.
"""

from nvdra.kubelet.answers import AnswerDevice, Failed, Failure, PrepareAnswer, UnprepareAnswer
from nvdra.kubelet.device_health import DeviceHealth, HealthFeed
from nvdra.kubelet.health import HealthService
from nvdra.kubelet.paths import SocketPaths, found_paths, keeps_two, socket_paths
from nvdra.kubelet.plugin import Plugin, Prepare, Unprepare
from nvdra.kubelet.registration import Registration, RetryPolicy
from nvdra.kubelet.sockets import Bound, SocketPathError, hidden_beside
from nvdra.kubelet.transport import time_left_s

__all__ = [
    "AnswerDevice",
    "Bound",
    "DeviceHealth",
    "Failed",
    "Failure",
    "HealthFeed",
    "HealthService",
    "Plugin",
    "Prepare",
    "PrepareAnswer",
    "Registration",
    "RetryPolicy",
    "SocketPathError",
    "SocketPaths",
    "Unprepare",
    "UnprepareAnswer",
    "found_paths",
    "hidden_beside",
    "keeps_two",
    "socket_paths",
    "time_left_s",
]
