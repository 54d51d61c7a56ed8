"""NVIDIA's own bindings run on the mock NVML unchanged, and say what its portraits say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nvdra_mock_nvml import lay_out

from tests.contract.mock_node import INVALID, NOT_FOUND, PORTRAITS, PROBE, UNINITIALIZED, UNSUPPORTED, on


def in_pci_order(portrait: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(portrait["gpus"], key=lambda gpu: gpu["pci_bus_id"][0])


def value(marked: list[Any] | None) -> Any:
    return {"error": UNSUPPORTED} if marked is None else marked[0]


def processors(text: str) -> list[int]:
    ranges = [part.partition("-") for part in text.split(",")]
    return sorted(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


@pytest.mark.parametrize("name", PORTRAITS)
def test_pynvml_says_what_the_portrait_says(name: str, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", name, device_files="regular")
    seen = json.loads(on(root, sys.executable, PROBE))
    portrait = json.loads(root.portrait.text)

    assert seen["driver"] == portrait["driver_version"][0]
    assert seen["cuda"] == [portrait["cuda_version"][0]] * 2
    assert seen["nvml"] == f"{portrait['cuda_version'][0] // 1000}.{portrait['driver_version'][0]}"
    assert (seen["beyond"], seen["unknown uuid"], seen["unknown pci"]) == (
        {"error": INVALID},
        {"error": NOT_FOUND},
        {"error": NOT_FOUND},
    )
    assert seen["after shutdown"] == [{"error": UNINITIALIZED}] * 2
    assert [roads for roads in seen["same"] if set(roads.values()) != {True}] == []
    gpus = in_pci_order(portrait)
    assert len(seen["gpus"]) == len(gpus)
    for index, (got, gpu) in enumerate(zip(seen["gpus"], gpus, strict=True)):
        model = portrait["models"][gpu["model"]]
        total, reserved = model["memory_total_bytes"][0], model["memory_reserved_bytes"][0]
        long_id = "0000" + gpu["pci_bus_id"][0].upper()
        assert got["UUID"] == next(known.uuid for known in root.portrait.gpus if known.minor == gpu["minor"])
        expected = {
            "Index": index,
            "MinorNumber": gpu["minor"],
            "Name": model["name"][0],
            "Serial": value(gpu.get("serial")),
            "ModuleId": value(gpu.get("module_id")),
            "Architecture": model["architecture"][0],
            "Brand": model["brand"][0],
            "CudaComputeCapability": model["compute_capability"][0],
            "VirtualizationMode": value(model.get("virtualization_mode")),
            "AddressingMode": value(model.get("addressing_mode")),
            "SupportedEventTypes": model["event_types"][0],
            "VbiosVersion": value(model.get("vbios")),
            "BoardPartNumber": value(model.get("part_number")),
            "NumGpuCores": value(model.get("cores")),
            "MemoryBusWidth": value(model.get("memory_bus_width_bits")),
            "MemoryInfo": {"total": total, "free": total - reserved, "used": reserved},
            "MigMode": [0, 0],
            "MaxMigDeviceCount": 0,
            "MigDeviceHandleByIndex": {"error": NOT_FOUND},
            "GpuInstanceById": {"error": NOT_FOUND},
            "IsMigDeviceHandle": 0,
            "NumaNodeId": {"error": UNSUPPORTED},
            "ComputeRunningProcesses": [],
            "GraphicsRunningProcesses": [],
            "PersistenceMode": 1,
            "ComputeMode": 0,
            "FanSpeed": {"error": UNSUPPORTED},
        }
        assert {key: got[key] for key in expected} == expected
        pci = got["PciInfo"]
        assert (pci["busId"], pci["busIdLegacy"]) == (long_id, long_id[4:])
        assert pci["pciDeviceId"] == model["pci_device_id"][0] == got["PciInfoExt"]["pciDeviceId"]
        assert got["PciInfoExt"]["busId"] == long_id
        assert pci["pciSubSystemId"] == model["pci_subsystem_id"][0]
        v2 = got["MemoryInfo_v2"]
        assert (v2["total"], v2["reserved"], v2["free"], v2["used"]) == (total, reserved, total - reserved, 0)
        assert_profiles(got["Profiles"], model["mig"])
        assert_links(got["NvLink"], gpu, model.get("nvlink"))
        assert_near(got, gpu, gpus, portrait)


def assert_profiles(table: dict[str, Any], mig: dict[str, Any]) -> None:
    known = {profile["index"]: profile for profile in mig["profiles"]}
    for index in range(19):
        got = table[str(index)]
        if index not in known:
            assert got == {"error": INVALID if index >= mig["index_limit"][0] else UNSUPPORTED}
            continue
        want = known[index]
        counts = ("sm", "ce", "dec", "enc", "jpg", "ofa")
        names = ("multiprocessor", "copyEngine", "decoder", "encoder", "jpeg", "ofa")
        assert [got[f"{name}Count"] for name in names] == [want[count] for count in counts]
        assert (got["id"], got["sliceCount"], got["instanceCount"]) == (want["id"], want["slices"], want["instances"])
        assert got["memorySizeMB"] == want["memory_mib"]
        assert got["placements"] == [[start, want["size"]] for start in want["starts"]]
        assert got["v2"]["name"] == got["by id"]["name"] == f"MIG {want['text']}"


def assert_links(got: dict[str, Any], gpu: dict[str, Any], nvlink: dict[str, Any] | None) -> None:
    ends = (gpu.get("nvlink_remote") or nvlink["remote"])[0] if nvlink else []
    if nvlink is None or not ends:
        assert got == {"links": [], "end": UNSUPPORTED}
        return
    assert got["end"] == INVALID
    assert [link["remote"] for link in got["links"]] == [
        end.upper().rjust(len("00000000:00:00.0"), "0") for end in ends
    ]
    assert {(link["state"], link["version"], link["kind"]) for link in got["links"]} == {(1, nvlink["version"][0], 2)}


def assert_near(got: dict[str, Any], gpu: dict[str, Any], gpus: list[dict[str, Any]], portrait: dict[str, Any]) -> None:
    nodes = portrait["host"]["numa_nodes"]
    own = [node for node in nodes if node["node"] == gpu["numa_node"][0]] or nodes
    socket = [node for node in nodes if node["socket"] in {near["socket"] for near in own}]
    assert got["Cpus"] == sorted(cpu for node in own for cpu in processors(node["cpus"][0]))
    assert got["CpusOfSocket"] == sorted(cpu for node in socket for cpu in processors(node["cpus"][0]))
    assert got["Nodes"] == [node["node"] for node in own]
    assert got["Ancestors"] == [level(gpu, other) for other in gpus]
    p2p = portrait.get("p2p")
    kinds = ("read", "write", "nvlink", "atomics", "pci")
    assert got["P2P"] == [[p2p[kind][0] if p2p else 5 for kind in kinds] + [{"error": INVALID}] for _ in gpus]
    for number in (10, 20, 30, 40, 50):
        near = [other["minor"] for other in gpus if other is not gpu and level(gpu, other) == number]
        assert got["Near"][str(number)] == sorted(near)


def level(one: dict[str, Any], other: dict[str, Any]) -> int:
    """`nvmlGpuTopologyLevel_t`, told from the bridges that are on one path only."""
    if one is other:
        return 0
    here, there = one["pcie_path"][0], other["pcie_path"][0]
    if not here or here[0] != there[0]:
        return 40 if one["numa_node"] == other["numa_node"] and one["numa_node"][0] >= 0 else 50
    if here[1:2] != there[1:2] or len(here) < 2:
        return 30
    apart = {*here} ^ {*there}
    return 10 if apart == {here[-1], there[-1]} else 20


@pytest.fixture(scope="module")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: NVIDIA's Go binding cannot be tried")
    program = tmp_path_factory.mktemp("gonvml") / "gonvml"
    environment = {**os.environ, "CGO_ENABLED": "1", "CGO_CFLAGS": "-g -O2 -Wno-deprecated-declarations"}
    build = ["go", "build", "-o", str(program), "."]
    done = subprocess.run(
        build, cwd=PROBE.parent / "gonvml", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("name", PORTRAITS)
def test_the_go_binding_agrees_with_pynvml(name: str, go_program: Path, tmp_path: Path) -> None:
    root = lay_out(tmp_path / "root", name, device_files="regular")
    python = json.loads(on(root, sys.executable, PROBE))
    go = json.loads(on(root, go_program, root.library))
    assert (go["Driver"], go["Nvml"], go["Cuda"]) == (python["driver"], python["nvml"], python["cuda"][0])
    assert go["HasAddressing"]
    for ours, theirs in zip(python["gpus"], go["Gpus"], strict=True):
        same = {
            "Name": ours["Name"],
            "UUID": ours["UUID"],
            "BusID": ours["PciInfo"]["busId"],
            "Serial": "" if "error" in ours["Serial"] else ours["Serial"],
            "Minor": ours["MinorNumber"],
            "Architecture": ours["Architecture"],
            "Brand": ours["Brand"],
            "ModuleID": -1 if isinstance(ours["ModuleId"], dict) else ours["ModuleId"],
            "ComputeCapability": ours["CudaComputeCapability"],
            "MigMode": ours["MigMode"],
            "MaxMigDevices": 0,
            "MemoryTotal": ours["MemoryInfo"]["total"],
            "MemoryReserved": ours["MemoryInfo_v2"]["reserved"],
            "AddressingMode": None if isinstance(ours["AddressingMode"], dict) else ours["AddressingMode"],
            "EventTypes": ours["SupportedEventTypes"],
            "Ancestors": ours["Ancestors"],
            "NvlinkP2P": [statuses[2] for statuses in ours["P2P"]],
            "Links": [{"Remote": link["remote"], "Kind": link["kind"]} for link in ours["NvLink"]["links"]],
        }
        assert {key: theirs[key] for key in same} == same
        words = enumerate(theirs["Cpus"])
        assert [64 * at + bit for at, word in words for bit in range(64) if word >> bit & 1] == ours["Cpus"]
        told = {index: profile for index, profile in ours["Profiles"].items() if "error" not in profile}
        # The Go binding asks for the first form of the struct, pynvml for the second.
        assert {index: (p["id"], p["multiprocessorCount"], p["memorySizeMB"]) for index, p in told.items()} == {
            index: (p["ID"], p["Multiprocessors"], p["MemoryMiB"]) for index, p in theirs["Profiles"].items()
        }
        assert {index: p["placements"] for index, p in told.items()} == {
            index: p["Placements"] for index, p in theirs["Profiles"].items()
        }
        assert theirs["ProfileErrors"] == {
            index: profile["error"] for index, profile in ours["Profiles"].items() if "error" in profile
        }
