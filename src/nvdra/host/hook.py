"""nvidia-cdi-hook, the program that container runtimes run for our CDI hooks: put where the host can reach it."""

from __future__ import annotations

from nvdra.ports import Host

BUNDLED = "/usr/bin/nvidia-cdi-hook"
_CHUNK = 1 << 20


class HookMissing(Exception):
    """The image has no nvidia-cdi-hook, or it cannot be put into the plugin's folder."""


async def install_hook(host: Host, plugin_dir: str, *, given: str = "", bundled: str = BUNDLED) -> str:
    """The path of the hook as CDI documents name it. Raises HookMissing.

    given   a path to use as it is: nothing is copied, and nothing looked at, for it is one of the host's
    """
    if given:
        return given
    target = f"{plugin_dir}/{bundled.rpartition('/')[2]}"
    try:
        # A running container start may execute the old one: replaced whole, and not at all if it is the same.
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
        # In pieces: the program has some megabytes, and this one is to stay small.
        wanted = host.read(source, offset=at, size=_CHUNK)
        if wanted != host.read(target, offset=at, size=_CHUNK):
            return False
        if not wanted:
            return True
        at += len(wanted)
