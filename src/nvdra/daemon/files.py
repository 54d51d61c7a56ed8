"""The files that IMEX reads, written only where they change."""

from __future__ import annotations

import os

from nvdra.daemon.identity import DaemonFailed
from nvdra.domains.imex import CONFIG, NODES, TEMPLATE, config


class DaemonFiles:
    """The files of one daemon.

    folder   /imexd in a container
    hosts    the hosts file: mounted by the runtime, so it is written in place
    Every method raises DaemonFailed.
    """

    def __init__(self, folder: str, hosts: str) -> None:
        self.folder = folder
        self._hosts = hosts

    @property
    def config_path(self) -> str:
        return f"{self.folder}/{CONFIG}"

    def write_config(self, pod_ip: str) -> None:
        """Make the configuration from its template."""
        template = _read(f"{self.folder}/{TEMPLATE}")
        _replace(self.config_path, config(template, pod_ip, self.folder))

    def write_nodes(self, text: str) -> bool:
        """Write the list of nodes; whether it changed."""
        path = f"{self.folder}/{NODES}"
        if os.path.exists(path) and _read(path) == text:
            return False
        _replace(path, text)
        return True

    def read_hosts(self) -> str:
        return _read(self._hosts)

    def write_hosts(self, text: str) -> None:
        """Write the hosts file: never shorter than its final text while IMEX may read it."""
        content = text.encode(errors="surrogateescape")
        try:
            descriptor = os.open(self._hosts, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                written = 0
                while written < len(content):
                    written += os.pwrite(descriptor, content[written:], written)
                os.ftruncate(descriptor, len(content))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failed(self._hosts, error) from error


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise DaemonFailed(3, f"cannot read {path}: {error.strerror}") from error


def _replace(path: str, text: str) -> None:
    new = f"{path}.new"
    try:
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.replace(new, path)
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: str, error: OSError) -> DaemonFailed:
    why = "; the pod's security context must not make it read-only" if error.errno in (1, 13, 30) else ""
    return DaemonFailed(3, f"cannot write {path}: {error.strerror}{why}")
