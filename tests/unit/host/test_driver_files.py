"""What containers get of a driver: against the recordings, and against roots that are odd."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

import nvdra_mock_nvml as mock
import pytest
from nvdra_mock_nvml.elf import shared_object

from nvdra import cdi
from nvdra.cdi import Edits
from nvdra.gpu.edits import DriverFiles, FoundFile, common_edits, gpu_edits
from nvdra.host import (
    DriverRoot,
    DriverVersionUnknown,
    Node,
    driver_root,
    find_library,
    gpu_files,
    look_at_bus,
    look_up,
    module_version,
)
from nvdra.testing.host import FakeHost
from tests.unit.host.ld_caches import cache
from tests.unit.host.recorded_root import PACKAGES, RECORDINGS, ROOT, VERSION, lay_out

HOOK = "/usr/bin/nvidia-cdi-hook"
RECORDED = sorted(RECORDINGS.glob("*/cdi/*.yaml"))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


@pytest.fixture
def root(host: FakeHost) -> DriverRoot:
    lay_out(host)
    return driver_root(host, ROOT, {})


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.parent.name)
def test_a_claims_document_equals_the_recorded_one(host: FakeHost, root: DriverRoot, path: Path) -> None:
    recorded = cdi.parse(path.read_bytes())
    uid = cdi.GPU_CLAIMS.claim_uid(path.name)
    assert uid is not None
    devices = [device.name.removeprefix(f"{uid}-") for device in recorded.devices]

    files = look_up(host, root, VERSION, environ={}, kernel_release="6.1.0")
    common = common_edits(files, HOOK)
    gpus = [(name, gpu_edits(gpu_files(host, root, int(name.removeprefix("gpu-")), ""), HOOK)) for name in devices]
    document = cdi.simplify(cdi.claim_document(cdi.GPU_CLAIMS, uid, gpus, common))
    document = cdi.transform_root(document, ROOT, "/run/nvidia/driver")

    # Some recordings mount one library twice over itself, by an accident of their caches.
    assert cdi.render(document) == cdi.render(cdi.simplify(recorded))
    assert files.missing == ()


# ── the packages of distributions ──────────────────────────────────────────────────────────────────────────────

# What is left out on purpose; docs/compat.md says why.
LEFT_OUT = ("*.dll", "*/nvidia-modprobe", "/etc/OpenCL/vendors/nvidia.icd")


@pytest.mark.parametrize("listing", PACKAGES, ids=lambda path: path.stem)
def test_every_file_of_a_packaged_driver_is_handed_out_or_left_out_for_a_reason(
    host: FakeHost, tmp_path: Path, listing: Path
) -> None:
    lay_out(host, "/r", listing)
    files = found(host, driver_root(host, "/r", {}))
    mounted = {str((tmp_path / mount.host_path[1:]).resolve()) for mount in common_edits(files, HOOK).mounts}
    installed = [path for path in (tmp_path / "r").rglob("*") if path.is_file() and not path.is_symlink()]
    assert files.version == listing.stem.rpartition("-")[2]
    assert [
        inside
        for path in installed
        if str(path) not in mounted
        and not any(fnmatchcase(inside := str(path).removeprefix(f"{tmp_path}/r"), one) for one in LEFT_OUT)
    ] == []


def test_folders_of_a_split_driver_are_all_in_the_loaders_cache(host: FakeHost) -> None:
    lay_out(host, "/r", PACKAGES[0])
    files = found(host, driver_root(host, "/r", {}))
    (ldcache,) = (hook for hook in common_edits(files, HOOK).hooks if hook.args[1] == "update-ldcache")
    libraries = "/usr/lib/x86_64-linux-gnu"
    assert ldcache.args[2:] == ("--folder", f"{libraries}/nvidia/current", "--folder", libraries)


def test_libraries_with_a_version_of_their_own_are_handed_out(host: FakeHost) -> None:
    """As the drivers 570 to 590 bring them."""
    root = put_driver(host)
    own = [
        "libnvidia-egl-gbm.so.1.1.2",
        "libnvidia-egl-wayland.so.1.1.19",
        "libnvidia-egl-wayland2.so.1.0.0",
        "libnvidia-egl-xcb.so.1.0.0",
        "libnvidia-egl-xlib.so.1.0.0",
        "libnvidia-nvvm70.so.4",
        "libnvidia-api.so.1",
    ]
    # Of another driver, and of the container toolkit.
    others = ["libnvidia-api.so.570.10", "libnvidia-container.so.1.17.8", "libOpenCL.so.1.0.0"]
    for name in (*own, *others):
        host.write(f"/r/usr/lib64/{name}", shared_object(name))
    for name in ("libnvidia-egl-xcb.so.1", "libnvidia-egl-xlib.so.1"):
        host.link(f"/r/usr/lib64/{name}", f"{name}.0.0")
    for name in ("20_nvidia_xcb", "20_nvidia_xlib"):
        host.write(f"/r/usr/share/egl/egl_external_platform.d/{name}.json")
    files = found(host, root)
    assert [path.rpartition("/")[2] for path in container_paths(files.graphics)] == own
    assert [path.rpartition("/")[2] for path in container_paths(files.configs)] == [
        "20_nvidia_xcb.json",
        "20_nvidia_xlib.json",
    ]


def test_of_one_library_in_two_folders_that_beside_libcuda_counts(host: FakeHost) -> None:
    root = put_driver(host, folder="/usr/lib/x86_64-linux-gnu/nvidia/current")
    for folder in ("/usr/lib64", "/usr/lib/x86_64-linux-gnu/nvidia/current"):
        host.write(f"/r{folder}/libnvidia-nvvm.so.580.65", shared_object("libnvidia-nvvm.so.4"))
    paths = [library.file.container_path for library in found(host, root).libraries]
    assert [path for path in paths if "nvvm" in path] == [
        "/usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-nvvm.so.580.65"
    ]


# ── the search ────────────────────────────────────────────────────────────────────────────────────────────────


def put_driver(host: FakeHost, base: str = "/r", version: str = "580.65", folder: str = "/usr/lib64") -> DriverRoot:
    """The least of a driver that containers can work with."""
    for name in ("libcuda", "libnvidia-ml"):
        host.write(f"{base}{folder}/{name}.so.{version}", shared_object(f"{name}.so.1"))
        host.link(f"{base}{folder}/{name}.so.1", f"{name}.so.{version}")
    host.put_device(f"{base}/dev/nvidiactl", 195, 255)
    host.put_device(f"{base}/dev/nvidia-uvm", 510, 0)
    return driver_root(host, base or "/", {})


def found(host: FakeHost, root: DriverRoot, version: str | None = None, **environ: str) -> DriverFiles:
    return look_up(host, root, version, environ=environ, kernel_release="6.1.0-x")


def container_paths(files: tuple[FoundFile, ...]) -> list[str]:
    return [file.container_path for file in files]


@pytest.mark.parametrize("folder", ["/usr/lib64", "/usr/lib/aarch64-linux-gnu/nvidia/current", "/lib/x86_64-linux-gnu"])
def test_the_version_is_told_by_the_libraries(host: FakeHost, folder: str) -> None:
    root = put_driver(host, folder=folder)
    for version in (None, "580.65"):
        files = found(host, root, version)
        assert (files.version, files.library_dir, files.missing) == ("580.65", folder, ())


def test_a_root_of_slash_is_searched_like_any_other(host: FakeHost) -> None:
    root = put_driver(host, "")
    host.write("/usr/bin/nvidia-smi", mode=0o755)
    files = found(host, root)
    assert files.library_dir == "/usr/lib64"
    assert files.binaries == (FoundFile("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),)
    assert [library.file.host_path for library in files.libraries] == [
        "/usr/lib64/libcuda.so.580.65",
        "/usr/lib64/libnvidia-ml.so.580.65",
    ]
    nodes = common_edits(files, HOOK).device_nodes
    assert [(node.path, node.host_path) for node in nodes] == [("/dev/nvidia-uvm", ""), ("/dev/nvidiactl", "")]


def test_the_library_folder_is_where_links_lead(host: FakeHost) -> None:
    root = put_driver(host, folder="/usr/lib/x86_64-linux-gnu")
    host.link("/r/usr/lib64", "/usr/lib/x86_64-linux-gnu")
    assert found(host, root).library_dir == "/usr/lib/x86_64-linux-gnu"


def test_only_the_loaded_version_counts(host: FakeHost) -> None:
    root = put_driver(host, version="580.65")
    put_driver(host, version="570.10", folder="/usr/lib/x86_64-linux-gnu")
    files = found(host, root, "570.10")
    assert files.library_dir == "/usr/lib/x86_64-linux-gnu"
    assert all(library.file.host_path.endswith(".so.570.10") for library in files.libraries)
    with pytest.raises(
        DriverVersionUnknown, match=r"neither libcuda.so nor libnvidia-ml.so of version 1\.2 is below .*/r"
    ):
        found(host, root, "1.2")


def test_libraries_of_another_version_than_the_loaded_modules_are_no_driver(host: FakeHost) -> None:
    root = put_driver(host, version="580.65")
    host.write("/sys/module/nvidia/version", "570.10\n")
    with pytest.raises(DriverVersionUnknown, match=r"of version 570\.10 is below the driver root /r"):
        found(host, root)
    put_driver(host, version="570.10", folder="/usr/lib/x86_64-linux-gnu")
    assert found(host, root).library_dir == "/usr/lib/x86_64-linux-gnu"


def test_another_mocks_libraries_need_not_fit_the_machines_module(host: FakeHost) -> None:
    put_driver(host, version="580.65")
    host.write("/sys/module/nvidia/version", "570.10\n")
    root = driver_root(host, "/r", {"ALT_PROC_DEVICES_PATH": "/x/devices"})
    assert found(host, root).version == "580.65"


def test_without_a_driver_the_root_is_named(host: FakeHost) -> None:
    with pytest.raises(DriverVersionUnknown, match="of any version is below the driver root /r; is the driver being"):
        found(host, driver_root(host, "/r", {}))


def test_the_loaders_cache_finds_a_driver_in_a_folder_of_its_own(host: FakeHost) -> None:
    root = put_driver(host, folder="/opt/nvidia/lib")
    host.write("/r/etc/ld.so.cache", cache(["/opt/nvidia/lib/libcuda.so.1", "/none/libx.so.1"]))
    files = found(host, root)
    assert (files.version, files.library_dir) == ("580.65", "/opt/nvidia/lib")
    assert len(files.libraries) == 2


@pytest.mark.parametrize("path", ["/dev/nvidia-uvm", "/dev/nvidiactl"])
def test_what_no_container_can_do_without_is_named(host: FakeHost, tmp_path: Path, path: str) -> None:
    root = put_driver(host)
    (tmp_path / f"r{path}").unlink()
    assert found(host, root).missing == (path,)
    host.write(f"/r{path}", "no device")
    assert found(host, root).missing == (path,)


def test_a_driver_without_cuda_is_not_whole(host: FakeHost, tmp_path: Path) -> None:
    root = put_driver(host)
    (tmp_path / "r/usr/lib64/libcuda.so.580.65").unlink()
    files = found(host, root)
    assert (files.version, files.missing) == ("580.65", ("libcuda.so.580.65",))


def test_programs_are_the_first_that_may_be_run(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/usr/local/bin/nvidia-smi", mode=0o644)
    host.write("/r/usr/bin/nvidia-smi", mode=0o755)
    host.write("/r/bin/nvidia-smi", mode=0o755)
    host.write("/r/opt/tools/nvidia-imex", mode=0o755)
    assert container_paths(found(host, root).binaries) == ["/usr/bin/nvidia-smi"]
    assert container_paths(found(host, root, PATH="/opt/tools::relative").binaries) == [
        "/usr/bin/nvidia-smi",
        "/opt/tools/nvidia-imex",
    ]


def test_a_file_behind_an_absolute_link_is_mounted_from_where_it_lies(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/usr/lib/nvidia/current/nvidia-smi", mode=0o755)
    host.link("/r/etc/alternatives/nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
    host.link("/r/usr/bin/nvidia-smi", "/etc/alternatives/nvidia-smi")
    host.write("/r/usr/bin/real-debugdump", mode=0o755)
    host.link("/r/usr/bin/nvidia-debugdump", "real-debugdump")
    assert found(host, root).binaries == (
        FoundFile("/r/usr/lib/nvidia/current/nvidia-smi", "/usr/bin/nvidia-smi"),
        FoundFile("/r/usr/bin/nvidia-debugdump", "/usr/bin/nvidia-debugdump"),
    )


def test_all_configurations_are_taken_and_the_first_of_vulkan(host: FakeHost) -> None:
    root = put_driver(host)
    for folder in ("/etc", "/usr/share", "/opt/share", ""):
        host.write(f"/r{folder}/vulkan/icd.d/nvidia_icd.json")
        host.write(f"/r{folder}/glvnd/egl_vendor.d/10_nvidia.json")
    assert found(host, root).configs == (
        FoundFile("/r/etc/glvnd/egl_vendor.d/10_nvidia.json", "/etc/glvnd/egl_vendor.d/10_nvidia.json"),
        FoundFile("/r/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "/usr/share/glvnd/egl_vendor.d/10_nvidia.json"),
        FoundFile("/r/etc/vulkan/icd.d/nvidia_icd.json", "/etc/vulkan/icd.d/nvidia_icd.json"),
    )
    shared = found(host, root, XDG_DATA_DIRS="/opt/share").configs
    assert container_paths(shared)[:2] == [
        "/etc/glvnd/egl_vendor.d/10_nvidia.json",
        "/opt/share/glvnd/egl_vendor.d/10_nvidia.json",
    ]


def test_vulkan_directly_below_the_root_is_mounted_into_etc(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/vulkan/icd.d/nvidia_layers.json")
    assert found(host, root).configs == (
        FoundFile("/r/vulkan/icd.d/nvidia_layers.json", "/etc/vulkan/icd.d/nvidia_layers.json"),
    )


def test_sockets_are_those_of_run_first(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/run/nvidia-persistenced/socket")
    host.write("/r/var/run/nvidia-persistenced/socket")
    host.write("/r/var/run/nvidia-fabricmanager/socket")
    host.write("/r/tmp/nvidia-mps/control", "a folder is none")
    files = found(host, root)
    assert container_paths(files.sockets) == ["/run/nvidia-persistenced/socket", "/var/run/nvidia-fabricmanager/socket"]
    mounts = [mount for mount in common_edits(files, HOOK).mounts if mount.container_path.endswith("/socket")]
    assert {mount.options for mount in mounts} == {("nosuid", "nodev", "rbind", "rprivate", "noexec")}


def test_firmware_is_searched_where_the_kernel_does(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/sys/module/firmware_class/parameters/path", "/custom/firmware\n")
    folders = [
        "/custom/firmware",
        "/lib/firmware/updates/6.1.0-x",
        "/lib/firmware/updates",
        "/lib/firmware/6.1.0-x",
        "/lib/firmware",
    ]
    for folder in reversed(folders):
        host.write(f"/r{folder}/nvidia/580.65/gsp_tu10x.bin")
    host.write("/r/lib/firmware/nvidia/580.65/readme")
    host.write("/r/lib/firmware/nvidia/570.10/gsp_tu10x.bin")
    assert container_paths(found(host, root).firmware) == [
        f"{folder}/nvidia/580.65/gsp_tu10x.bin" for folder in folders
    ]


def test_the_x_servers_modules_are_the_first_found(host: FakeHost) -> None:
    root = put_driver(host)
    for folder in (
        "/usr/lib/xorg/modules/drivers",
        "/usr/lib64/xorg/modules/drivers",
        "/usr/X11R6/lib/modules/drivers",
    ):
        host.write(f"/r{folder}/nvidia_drv.so")
    host.write("/r/usr/lib64/nvidia/xorg/libglxserver_nvidia.so.580.65")
    files = found(host, root)
    assert container_paths(files.xorg) == [
        "/usr/lib64/xorg/modules/drivers/nvidia_drv.so",
        "/usr/lib64/nvidia/xorg/libglxserver_nvidia.so.580.65",
    ]
    link = "libglxserver_nvidia.so.580.65::/usr/lib64/nvidia/xorg/libglxserver_nvidia.so"
    assert link in common_edits(files, HOOK).hooks[0].args


def test_graphics_libraries_have_versions_of_their_own(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/usr/lib64/libnvidia-egl-gbm.so.1.1.2")
    host.link("/r/usr/lib64/libnvidia-egl-gbm.so.1", "libnvidia-egl-gbm.so.1.1.2")
    host.write("/r/usr/lib64/libnvidia-egl-wayland.so.1.1.19")
    host.write("/r/usr/lib64/libnvidia-allocator.so.580.65", shared_object("libnvidia-allocator.so.1"))
    files = found(host, root)
    assert [path.rpartition("/")[2] for path in container_paths(files.graphics)] == [
        "libnvidia-egl-gbm.so.1.1.2",
        "libnvidia-egl-wayland.so.1.1.19",
        "libnvidia-allocator.so.580.65",
    ]
    edits = common_edits(files, HOOK)
    paths = [mount.container_path for mount in edits.mounts]
    assert len(paths) == len(set(paths))
    assert edits.hooks[0].args[2:] == (
        "--link",
        "../libnvidia-allocator.so.1::/usr/lib64/gbm/nvidia-drm_gbm.so",
    )


# ── the hooks ─────────────────────────────────────────────────────────────────────────────────────────────────


def links(host: FakeHost, root: DriverRoot) -> list[str]:
    hooks = [hook for hook in common_edits(found(host, root), HOOK).hooks if hook.args[1] == "create-symlinks"]
    return [argument for argument in hooks[-1].args[2:] if argument != "--link"]


def test_links_are_made_as_far_as_the_host_has_them(host: FakeHost) -> None:
    root = put_driver(host)
    for name in ("libx", "libnolink", "libfile"):
        host.write(f"/r/usr/lib64/{name}.so.580.65", shared_object(f"{name}.so.1"))
    host.link("/r/usr/lib64/libx.so.1", "libx.so.580.65")
    host.link("/r/usr/lib64/libx.so", "libx.so.1")
    host.write("/r/usr/lib64/libfile.so.1", "a file is no link")
    host.write("/r/usr/lib64/libbare.so.580.65", shared_object("libbare.so.580.65"))
    host.link("/r/usr/lib64/libbare.so", "libbare.so.580.65")
    host.write("/r/usr/lib64/libtext.so.580.65", "no library at all")
    host.link("/r/usr/lib64/libtext.so", "libtext.so.580.65")
    assert links(host, root) == [
        "libbare.so.580.65::/usr/lib64/libbare.so",
        "libcuda.so.1::/usr/lib64/libcuda.so",
        "libcuda.so.580.65::/usr/lib64/libcuda.so.1",
        "libnvidia-ml.so.580.65::/usr/lib64/libnvidia-ml.so.1",
        "libx.so.580.65::/usr/lib64/libx.so.1",
        "libx.so.1::/usr/lib64/libx.so",
    ]


def test_hooks_come_in_their_order_and_name_their_program(host: FakeHost) -> None:
    root = put_driver(host)
    host.write("/r/usr/lib64/vdpau/libvdpau_nvidia.so.580.65", shared_object("libvdpau_nvidia.so.1"))
    files = found(host, root)
    hooks = common_edits(files, "/opt/nvidia-ctk").hooks
    assert [hook.args[:3] for hook in hooks] == [
        ("nvidia-ctk", "hook", "create-symlinks"),
        ("nvidia-ctk", "hook", "enable-cuda-compat"),
        ("nvidia-ctk", "hook", "update-ldcache"),
        ("nvidia-ctk", "hook", "disable-device-node-modification"),
    ]
    assert hooks[1].args[3:] == ("--host-driver-version=580.65",)
    assert hooks[2].args[3:] == ("--folder", "/usr/lib64", "--folder", "/usr/lib64/vdpau")
    assert {(hook.name, hook.path, hook.env) for hook in hooks} == {
        ("createContainer", "/opt/nvidia-ctk", ("NVIDIA_CTK_DEBUG=false",))
    }


@pytest.mark.parametrize(
    ("mode", "gid", "gids"), [(0o660, 44, (44,)), (0o666, 44, ()), (0o662, 44, (44,)), (0o600, 0, ()), (0, 44, ())]
)
def test_groups_are_added_where_a_node_is_not_open_to_all(
    host: FakeHost, mode: int, gid: int, gids: tuple[int, ...]
) -> None:
    root = put_driver(host)
    host.put_device("/r/dev/nvidia-modeset", 195, 254, mode=mode, gid=gid)
    assert common_edits(found(host, root), HOOK).additional_gids == gids


# ── roots of the mock, on the real file system ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("portrait", ["h200x1", "h100x8", "a100x8", "gpus16"])
def test_a_mocks_root_is_whole(tmp_path: Path, portrait: str) -> None:
    laid = mock.lay_out(tmp_path / "root", portrait, drm=True)
    node = Node()
    environ = {"NVDRA_SYSFS": str(laid.sysfs), "NVDRA_PROCFS": str(laid.procfs)}
    root = driver_root(node, str(laid.root), environ)
    assert root.dev == str(laid.root)
    assert find_library(node, root) == str(laid.library.resolve())
    assert module_version(node, root) == laid.driver_version

    files = look_up(node, root, environ={})
    assert (files.version, files.missing) == (laid.driver_version, ())
    bus = look_at_bus(node, root)
    assert {gpu.address for gpu in bus.gpus} == {gpu.pci_bus_id for gpu in laid.portrait.gpus}
    for gpu in laid.portrait.gpus:
        facts = bus.facts[gpu.pci_bus_id]
        assert facts.pcie_root == gpu.pcie_path[0]
        assert facts.numa_node == (gpu.numa_node if gpu.numa_node >= 0 else None)
        own = gpu_files(node, root, gpu.minor, gpu.pci_bus_id)
        assert own.missing == ()
        assert [found.container_path for found in own.nodes] == [
            f"/dev/nvidia{gpu.minor}",
            f"/dev/dri/card{gpu.minor + 1}",
            f"/dev/dri/renderD{gpu.minor + 128}",
        ]
        assert len(own.by_path) == 2


def test_the_recorded_node_as_the_mock_lays_it_out_gives_the_recorded_edits(tmp_path: Path) -> None:
    laid = mock.lay_out(tmp_path / "root", "recorded-a100x8", device_files="mknod" if os.geteuid() == 0 else "regular")
    node = Node()
    root = driver_root(node, str(laid.root), {"NVDRA_SYSFS": str(laid.sysfs), "NVDRA_PROCFS": str(laid.procfs)})
    files = look_up(node, root, environ={}, kernel_release="6.1.0")
    document = cdi.simplify(
        cdi.claim_document(cdi.GPU_CLAIMS, "c", [("gpu-0", Edits(env=("A=1",)))], common_edits(files, HOOK))
    )
    edits = cdi.transform_root(document, str(laid.root), "/run/nvidia/driver").edits

    recorded = cdi.simplify(cdi.parse(RECORDED[0].read_bytes())).edits
    assert edits.mounts == recorded.mounts
    assert edits.hooks == recorded.hooks
    assert edits.env == recorded.env
    assert [node.path for node in edits.device_nodes] == [node.path for node in recorded.device_nodes]
    if os.geteuid() == 0:
        assert edits.device_nodes == recorded.device_nodes
