"""How a document comes into its final form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from nvdra import cdi
from nvdra.cdi import CdiDevice, DeviceNode, Document, Edits, Hook, Mount
from tests.unit.cdi.documents import RECORDED, documents_of, paths

UID = "4c9f0f4e-6a0a-4b4e-9d0a-0b2f4b7a1c11"
NODE = DeviceNode("/dev/nvidia0", major=195, file_mode=0o666, permissions="rwm")
CONTROL = DeviceNode("/dev/nvidiactl", major=195, minor=255, file_mode=0o666, permissions="rwm")


def document(*devices: tuple[str, Edits], common: Edits = Edits()) -> Document:  # noqa: B008 — a frozen value
    return cdi.claim_document(cdi.GPU_CLAIMS, UID, devices, common)


# ---- names


def test_names() -> None:
    assert str(cdi.GPU_CLAIMS) == "k8s.gpu.nvidia.com/claim"
    assert cdi.GPU_CLAIMS.device_name(UID, "gpu-0") == f"{UID}-gpu-0"
    assert cdi.GPU_CLAIMS.device_id(UID, "gpu-0") == f"k8s.gpu.nvidia.com/claim={UID}-gpu-0"
    assert cdi.GPU_CLAIMS.file_name(UID) == f"k8s.gpu.nvidia.com-claim_{UID}.yaml"
    assert cdi.GPU_CLAIMS.file_name("a/b") == "k8s.gpu.nvidia.com-claim_a_b.yaml"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_recorded_files_are_named_so(path: Path) -> None:
    uid = cdi.GPU_CLAIMS.claim_uid(path.name)
    assert uid is not None
    assert cdi.GPU_CLAIMS.file_name(uid) == path.name
    assert all(device.name.startswith(f"{uid}-gpu-") for device in cdi.parse(path.read_bytes()).devices)


@pytest.mark.parametrize(
    "name", ["nvidia.yaml", "spec.1.tmp", "k8s.gpu.nvidia.com-claim_.yaml", "k8s.gpu.nvidia.com-claim_x.json"]
)
def test_other_files_are_no_claims(name: str) -> None:
    assert cdi.GPU_CLAIMS.claim_uid(name) is None


def test_results_that_share_a_device_give_one_cdi_device() -> None:
    edits = Edits(device_nodes=(NODE,))
    made = document(("gpu-0", edits), ("gpu-1", edits), ("gpu-0", edits))
    assert [device.name for device in made.devices] == [f"{UID}-gpu-0", f"{UID}-gpu-1"]


# ---- simplification


def test_repetitions_go_and_what_the_document_gives_is_not_given_again() -> None:
    common = Edits(env=("A=1", "A=1"), device_nodes=(CONTROL, CONTROL))
    made = cdi.simplify(
        document(("gpu-0", Edits(env=("B=1", "A=1"), device_nodes=(CONTROL, NODE, NODE))), common=common)
    )
    assert made.edits == Edits(env=("A=1",), device_nodes=(CONTROL,))
    assert made.devices[0].edits == Edits(env=("B=1",), device_nodes=(NODE,))


def test_a_device_is_never_left_empty() -> None:
    edits = Edits(device_nodes=(CONTROL,))
    assert cdi.simplify(document(("gpu-0", edits), common=edits)).devices[0].edits == edits


def test_order_is_by_depth_then_path_and_hooks_keep_theirs() -> None:
    mounts = [Mount("/x", path) for path in ("/usr/lib/b", "/usr/lib/a", "/z", "/run//x/../a", "/usr/lib/nvidia/a")]
    hooks = (Hook("createContainer", "/b"), Hook("createContainer", "/a"), Hook("createContainer", "/b"))
    nodes = tuple(DeviceNode(path) for path in ("/dev/dri/card1", "/dev/nvidia0", "/dev/nvidia-caps/a"))
    edits = Edits(
        env=("B=1", "A=1"), hooks=hooks, mounts=tuple(mounts), device_nodes=nodes, additional_gids=(5, 44, 5, 1)
    )
    made = cdi.simplify(document(("gpu-1", edits), ("gpu-0", edits), common=Edits(env=("C=1",))))
    assert [device.name[-1] for device in made.devices] == ["0", "1"]
    final = made.devices[0].edits
    assert [mount.container_path for mount in final.mounts] == [
        "/z", "/run//x/../a", "/usr/lib/a", "/usr/lib/b", "/usr/lib/nvidia/a",
    ]  # fmt: skip
    assert [node.path for node in final.device_nodes] == ["/dev/nvidia0", "/dev/dri/card1", "/dev/nvidia-caps/a"]
    assert final.env == ("B=1", "A=1")
    assert final.hooks == hooks[:2]
    assert final.additional_gids == (1, 5, 44)


@given(documents_of(paths))
def test_a_simple_document_is_not_changed_again(made: Document) -> None:
    once = cdi.simplify(made)
    assert cdi.simplify(once) == once


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_recorded_documents_are_in_that_order(path: Path) -> None:
    """From the second claim on the Go driver repeats mounts, because it compares them with already moved ones."""
    recorded = cdi.parse(path.read_bytes())
    once = Edits(
        recorded.edits.env,
        recorded.edits.device_nodes,
        recorded.edits.hooks,
        tuple(dict.fromkeys(recorded.edits.mounts)),
        recorded.edits.additional_gids,
    )
    assert cdi.simplify(recorded) == Document(recorded.kind, recorded.devices, once)


# ---- the host's paths


def moved(edits: Edits, container_root: str, host_root: str) -> Edits:
    made = cdi.transform_root(document(("gpu-0", edits), common=edits), container_root, host_root)
    assert made.devices[0].edits == made.edits
    return made.edits


@pytest.mark.parametrize(
    ("path", "container_root", "host_root", "wanted"),
    [
        ("/driver-root/usr/lib/a", "/driver-root", "/", "/usr/lib/a"),
        ("/driver-root/usr/lib/a", "/driver-root", "/run/nvidia/driver", "/run/nvidia/driver/usr/lib/a"),
        ("/driver-root/usr/lib/a", "/driver-root/", "/host/", "/host/usr/lib/a"),
        ("/driver-root", "/driver-root", "/host", "/host"),
        ("/driver-root2/a", "/driver-root", "/host", "/driver-root2/a"),
        ("/dev/nvidia0", "/driver-root", "/", "/dev/nvidia0"),
        ("/usr/lib/a", "/", "/run/nvidia/driver", "/run/nvidia/driver/usr/lib/a"),
        ("/run/usr/lib/a", "/run", "/run/nvidia/driver", "/run/nvidia/driver/usr/lib/a"),
    ],
)
def test_paths_below_the_root_move(path: str, container_root: str, host_root: str, wanted: str) -> None:
    edits = Edits(
        device_nodes=(DeviceNode("/dev/x", host_path=path),),
        mounts=(Mount(path, "/y"),),
        hooks=(Hook("createContainer", path),),
    )
    result = moved(edits, container_root, host_root)
    assert (result.device_nodes[0].host_path, result.mounts[0].host_path, result.hooks[0].path) == (wanted,) * 3
    assert (result.device_nodes[0].path, result.mounts[0].container_path) == ("/dev/x", "/y")


def test_every_node_says_its_host_path() -> None:
    assert moved(Edits(device_nodes=(NODE,)), "/driver-root", "/").device_nodes[0].host_path == "/dev/nvidia0"
    assert moved(Edits(device_nodes=(NODE,)), "/", "/").device_nodes[0].host_path == ""


def test_a_host_root_below_the_container_root_is_entered_once() -> None:
    """The common part serves many claims: the second one must not be moved twice."""
    edits = Edits(mounts=(Mount("/run/usr/lib/a", "/usr/lib/a"),))
    common = cdi.Common(edits, "/run", "/run/nvidia/driver")
    device = [("u-gpu-0", Edits(device_nodes=(DeviceNode("/run/dev/nvidia0"),)))]
    first = cdi.render_claim(cdi.GPU_CLAIMS, common, device)
    assert cdi.render_claim(cdi.GPU_CLAIMS, common, device) == first
    assert [mount.host_path for mount in cdi.parse(first).edits.mounts] == ["/run/nvidia/driver/usr/lib/a"]


def test_arguments_move_where_they_speak_of_the_host() -> None:
    hooks = [
        Hook(name, "/r/h", ("h", "/r/a::/r/b", "x")) for name in ("createContainer", "startContainer", "createRuntime")
    ]
    made = moved(Edits(hooks=tuple(hooks)), "/r", "/h").hooks
    assert [(hook.path, hook.args[1]) for hook in made] == [
        ("/h/h", "/r/a::/r/b"), ("/r/h", "/r/a::/r/b"), ("/h/h", "/h/a::/h/b"),
    ]  # fmt: skip


# ---- the version


@pytest.mark.parametrize(
    ("edits", "name", "kind", "wanted"),
    [
        (Edits(env=("A=1",)), "a", "vendor.com/class", "0.3.0"),
        (Edits(env=("A=1",)), "1a", "vendor.com/class", "0.5.0"),
        (Edits(mounts=(Mount("/a", "/a", type="tmpfs"),)), "a", "vendor.com/class", "0.4.0"),
        (Edits(device_nodes=(DeviceNode("/a", host_path="/b"),)), "a", "vendor.com/class", "0.5.0"),
        (Edits(env=("A=1",)), "a", "vendor.com/class.x", "0.6.0"),
        (Edits(additional_gids=(44,)), "a", "vendor.com/class", "0.7.0"),
    ],
)
def test_the_oldest_version_that_does(edits: Edits, name: str, kind: str, wanted: str) -> None:
    plain = Edits(env=("X=1",))
    assert cdi.minimum_version(Document(kind, (CdiDevice(name, edits),), plain)) == wanted
    assert cdi.minimum_version(Document(kind, (CdiDevice(name, plain),), edits)) == wanted


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_recorded_versions(path: Path) -> None:
    content = path.read_bytes()
    assert f"cdiVersion: {cdi.minimum_version(cdi.parse(content))}\n".encode() in content
