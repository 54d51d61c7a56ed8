"""What the demo is made of: its scheduler, its container, its page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra.cdi import CdiDevice, DeviceNode, Document, Edits, Mount
from nvdra.programs.demo import container, scheduler
from nvdra.programs.demo.page import NotTrue, Page, seconds, tail
from nvdra.programs.demo.scheduler import Attribute, Wish

NUMA = "resource.kubernetes.io/numaNode"


def device(minor: int, numa_node: int | None = 0) -> dict[str, object]:
    attributes: dict[str, object] = {"uuid": {"string": f"GPU-{minor}"}}
    if numa_node is not None:
        attributes[NUMA] = {"int": numa_node}
    return {"name": f"gpu-{minor}", "attributes": attributes}


# ── scheduler ──────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.sampled_from([0, 1, None]), max_size=8),
    st.sets(st.integers(0, 7)),
    st.integers(1, 4),
    st.sampled_from([None, 0, 1]),
)
def test_allocation(numa_nodes: list[int | None], taken: set[int], count: int, wanted: int | None) -> None:
    devices = [device(minor, node) for minor, node in enumerate(numa_nodes)]
    selector = None if wanted is None else Attribute(NUMA, wanted)
    free = [
        f"gpu-{minor}"
        for minor, node in enumerate(numa_nodes)
        if minor not in taken and (wanted is None or node == wanted)
    ]
    given_names = scheduler.allocate(Wish("a", count, selector), devices, {f"gpu-{minor}" for minor in taken})
    assert given_names == (free[:count] if len(free) >= count else None)


def test_a_selector_is_written_as_cel() -> None:
    assert Attribute(NUMA, 1).cel("gpu.nvidia.com") == 'device.attributes["resource.kubernetes.io"].numaNode == 1'
    assert Attribute("uuid", "GPU-1").cel("gpu.nvidia.com") == 'device.attributes["gpu.nvidia.com"].uuid == "GPU-1"'
    request = Wish("a", 2, Attribute(NUMA, 1)).claim("ns", "gpu.nvidia.com")["spec"]["devices"]["requests"][0]
    assert request["exactly"]["count"] == 2
    assert request["exactly"]["selectors"] == [{"cel": {"expression": Attribute(NUMA, 1).cel("gpu.nvidia.com")}}]


def test_picking_shows_only_where_devices_differ() -> None:
    assert scheduler.telling([device(0, 0), device(1, 1)]) == Attribute(NUMA, 1)
    assert scheduler.telling([device(0, 0), device(1, 0)]) == Attribute("uuid", "GPU-1")
    assert scheduler.telling([device(0, 0)]) is None


# ── container ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_container_gets_what_is_common_and_its_own_devices(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1.2"
    library.write_text("library")
    document = Document(
        "kind",
        (
            CdiDevice("a-gpu-0", Edits(device_nodes=(DeviceNode("/dev/nvidia0"),))),
            CdiDevice("a-gpu-1", Edits(device_nodes=(DeviceNode("/dev/nvidia1"),))),
        ),
        Edits(mounts=(Mount(str(library), "/usr/lib/libcuda.so.1.2"),)),
    )
    edits = container.edits_for(document, ["a-gpu-1"])
    assert [node.path for node in edits.device_nodes] == ["/dev/nvidia1"]
    container.build(tmp_path / "c", edits)
    seen = sorted(str(path.relative_to(tmp_path / "c")) for path in (tmp_path / "c").rglob("*") if path.is_file())
    assert seen == ["dev/nvidia1", "usr/lib/libcuda.so.1.2"]
    assert (tmp_path / "c/usr/lib/libcuda.so.1.2").read_text() == "library"


def test_what_is_missing_is_named_by_its_path_on_the_host(tmp_path: Path) -> None:
    edits = Edits(
        device_nodes=(DeviceNode("/dev/null"), DeviceNode("/dev/nvidia0", host_path=f"{tmp_path}/nvidia0")),
        mounts=(Mount(f"{tmp_path}/lib.so", "/lib.so"), Mount(str(tmp_path), "/a")),
    )
    assert container.missing(edits) == [f"{tmp_path}/nvidia0", f"{tmp_path}/lib.so"]


def test_mounts_by_kind() -> None:
    paths = [
        "/usr/lib/libcuda.so.1.2",
        "/usr/bin/nvidia-smi",
        "/lib/firmware/nvidia/1.2/gsp.bin",
        "/etc/a.json",
        "/a/b.so",
    ]
    assert container.kinds(Mount(path, path) for path in paths) == {
        "libraries": 2,
        "programs": 1,
        "firmware": 1,
        "configurations": 1,
    }


# ── page ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_step_that_fails_is_marked_and_keeps_its_lines() -> None:
    stream = io.StringIO()
    page = Page(stream, {})

    def play() -> None:
        with page.step("One"):
            page.line("two")
            page.must(True, "never")
            page.must(False, "three")

    with pytest.raises(NotTrue, match="three"):
        play()
    assert page.checks == 2
    lines = stream.getvalue().splitlines()
    assert lines[1].startswith("NOT TRUE 1 One  ")
    assert lines[2] == "    two"


def test_colours_are_for_terminals_that_want_them() -> None:
    assert Page(Terminal(), {}).paint("a", "red") == "\x1b[31ma\x1b[0m"
    for environ in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert Page(Terminal(), environ).paint("a", "red") == "a"
    assert Page(io.StringIO(), {}).paint("a", "red") == "a"


def test_a_stream_without_unicode_gets_plain_marks() -> None:
    stream = io.StringIO()
    Page(stream, {}).line("2 GPUs → gpu-1 …")
    assert stream.getvalue() == "2 GPUs -> gpu-1 ...\n"


def test_tables_and_pairs_stay_on_the_page() -> None:
    stream = io.StringIO()
    page = Page(stream, {})
    page.table(["A", "B"], [["a" * 30, "b" * 200]])
    page.pair("name", "word " * 60)
    assert all(len(line) <= page.width for line in stream.getvalue().splitlines())
    assert "name" in stream.getvalue()


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.00042, "0.4 ms"), (0.0099, "9.9 ms"), (0.018, "18 ms"), (0.999, "999 ms"), (1.26, "1.3 s")],
)
def test_durations(duration_s: float, text: str) -> None:
    assert seconds(duration_s) == text


def test_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(10000)))
    assert tail(str(path), 3) == ["line 9997", "line 9998", "line 9999"]
    assert tail(str(tmp_path / "none")) == []
