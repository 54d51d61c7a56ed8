"""Installs nvidia-cdi-hook, the program of our CDI hooks, where the host's container runtime can run it."""

from __future__ import annotations

from nvdra.ports import Host

BUNDLED = "/usr/bin/nvidia-cdi-hook"
_CHUNK = 1 << 20


class HookMissing(Exception):
    """The image has no nvidia-cdi-hook, or it cannot be put into the plugin's folder."""


async def install_hook(host: Host, plugin_dir: str, *, given: str = "", bundled: str = BUNDLED) -> str:
    """The path of the hook as CDI documents name it. Raises HookMissing.

    given   a path on the host, used unchecked: nothing is copied
    """
    if given:
        return given
    target = f"{plugin_dir}/{bundled.rpartition('/')[2]}"
    try:
        # A starting container may be executing the old program: replace it atomically, and only if it differs.
        if not _is_same(host, bundled, target):
            await host.replace(target, host.read(bundled), mode=0o755, durable=False)
    except OSError as error:
        raise HookMissing(
            f"cannot copy the CDI hook {bundled} to {target}: {error.strerror or error}; "
            "give the path of one on the host by --nvidia-cdi-hook-path"
        ) from None
    return target


def _is_same(host: Host, source: str, target: str) -> bool:
    try:
        seen = host.stat(target)
    except OSError:
        return False
    if seen.kind != "file" or seen.mode != 0o755:
        return False
    at = 0
    while True:
        # Compared in pieces to save memory: the program has some megabytes.
        wanted = host.read(source, offset=at, size=_CHUNK)
        if wanted != host.read(target, offset=at, size=_CHUNK):
            return False
        if not wanted:
            return True
        at += len(wanted)
