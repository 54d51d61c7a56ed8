"""Container edits of channels and daemons."""

from __future__ import annotations

from functools import cache

from nvdra.cdi import DeviceNode, Edits, Mount
from nvdra.domains.devices import CHANNELS, CapabilityNode, DomainRef

_FOLDER = "/imexd"


@cache
def channel_edits(major: int, number: int | None) -> Edits:
    """One IMEX channel, or all (None). Runtimes make the nodes from their numbers; the host needs none."""
    numbers = range(CHANNELS) if number is None else (number,)
    return Edits(
        device_nodes=tuple(
            DeviceNode(
                path=f"/dev/nvidia-caps-imex-channels/channel{each}", type="c", major=major, minor=each, file_mode=0o666
            )
            for each in numbers
        )
    )


def daemon_edits(domain: str, ref: DomainRef, folder: str, fabric_node: CapabilityNode | None) -> Edits:
    """What the IMEX daemon of a domain gets.

    folder        the domain's on the host
    fabric_node   None without fabric
    """
    nodes: tuple[DeviceNode, ...] = ()
    if fabric_node is not None and ref.clique:
        path = f"/dev/nvidia-caps/nvidia-cap{fabric_node.minor}"
        nodes = (
            DeviceNode(path, type="c", major=fabric_node.major, minor=fabric_node.minor, file_mode=fabric_node.mode),
        )
    return Edits(
        env=(
            f"CLIQUE_ID={ref.clique}",
            f"COMPUTE_DOMAIN_UUID={domain}",
            f"COMPUTE_DOMAIN_NAME={ref.name}",
            f"COMPUTE_DOMAIN_NAMESPACE={ref.namespace}",
        ),
        device_nodes=nodes,
        mounts=(Mount(folder, _FOLDER, ("rw", "nosuid", "nodev", "bind")),),
    )
