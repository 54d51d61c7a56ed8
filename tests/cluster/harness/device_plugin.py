"""A device plugin for the kubelet: it registers by the plugin registry and gives out devices by their ids.

Messages are few and small, so they are written by hand. Source: k8s.io/kubelet, pkg/apis/deviceplugin/v1beta1.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from nvdra.kubelet.proto.pluginregistration.v1 import api_pb2 as registration


def _text(field: int, value: bytes) -> bytes:
    """A text or message field of fewer than 128 bytes."""
    return bytes((field << 3 | 2, len(value))) + value


class DevicePlugin:
    """Gives out devices of one resource.

    registry   where the kubelet looks for sockets of plugins
    ids        of its devices, all healthy
    """

    def __init__(self, registry: Path, resource: str, *ids: str) -> None:
        self._socket = registry / "device-plugin.sock"
        self._resource = resource
        self._devices = b"".join(_text(1, _text(1, device_id.encode()) + _text(2, b"Healthy")) for device_id in ids)
        self._ends = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        unary = {
            "/pluginregistration.Registration/GetInfo": self._info,
            "/pluginregistration.Registration/NotifyRegistrationStatus": lambda _request, _context: b"",
            "/v1beta1.DevicePlugin/GetDevicePluginOptions": lambda _request, _context: b"",
            "/v1beta1.DevicePlugin/Allocate": lambda _request, _context: _text(1, b""),
            "/v1beta1.DevicePlugin/PreStartContainer": lambda _request, _context: b"",
        }
        handlers: dict[str, Any] = {path: grpc.unary_unary_rpc_method_handler(answer) for path, answer in unary.items()}
        handlers["/v1beta1.DevicePlugin/ListAndWatch"] = grpc.unary_stream_rpc_method_handler(self._list)
        self._server.add_generic_rpc_handlers((_Handlers(handlers),))

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The kubelet knows the plugin; afterwards its devices are gone."""
        self._server.add_insecure_port(f"unix:{self._socket}")
        self._server.start()
        try:
            yield
        finally:
            self._ends.set()
            self._server.stop(1).wait()
            self._socket.unlink(missing_ok=True)

    def _info(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        return registration.PluginInfo(
            type="DevicePlugin",
            name=self._resource,
            endpoint=str(self._socket),
            supported_versions=["v1beta1"],
        ).SerializeToString()

    def _list(self, _request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        yield self._devices
        self._ends.wait()


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method)
