"""What a MIG device adds to a container."""

from __future__ import annotations

from nvdra import cdi
from nvdra.cdi import DeviceNode, Edits, Hook
from nvdra.gpu.edits import CapabilityNode, mig_edits

PARENT = Edits(
    device_nodes=(
        DeviceNode("/dev/nvidia0", major=195, file_mode=0o666, permissions="rwm"),
        DeviceNode("/dev/dri/card1", major=226, minor=1, file_mode=0o660, permissions="rwm", gid=44),
    ),
    hooks=(Hook("createContainer", "/hook", ("hook", "create-symlinks")),),
    additional_gids=(44,),
)
INSTANCES = (CapabilityNode(234, 84, 0o444), CapabilityNode(234, 85, 0o444))


def test_it_adds_what_its_gpu_does_and_the_nodes_of_its_instances() -> None:
    edits = mig_edits(PARENT, INSTANCES)
    assert (edits.hooks, edits.additional_gids) == (PARENT.hooks, PARENT.additional_gids)
    assert edits.device_nodes == (
        *PARENT.device_nodes,
        DeviceNode("/dev/nvidia-caps/nvidia-cap84", type="c", major=234, minor=84, file_mode=292),
        DeviceNode("/dev/nvidia-caps/nvidia-cap85", type="c", major=234, minor=85, file_mode=292),
    )


def test_the_nodes_are_not_looked_for_below_the_driver_root() -> None:
    """They come from their numbers, so that the host's path says nothing but the container's."""
    document = cdi.claim_document(
        cdi.GPU_CLAIMS, "c", [("gpu-0-mig-1g5gb-19-0", mig_edits(PARENT, INSTANCES))], Edits()
    )
    [device] = cdi.transform_root(document, "/driver-root", "/run/nvidia/driver").devices
    assert [node.host_path for node in device.edits.device_nodes[2:]] == [
        "/dev/nvidia-caps/nvidia-cap84",
        "/dev/nvidia-caps/nvidia-cap85",
    ]
