"""SONAMEs: of shared objects made here, of one the linker made, and of files that are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvdra_mock_nvml.elf import shared_object, without_soname

from nvdra import _core
from nvdra.host.elf import UnreadableElf, soname
from nvdra.testing.host import FakeHost


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> FakeHost:
    return FakeHost(tmp_path_factory.mktemp("node"))


@pytest.mark.parametrize("name", ["libcuda.so.1", "x", "lib" + "n" * 200 + ".so.1"])
def test_a_soname_is_read(host: FakeHost, name: str) -> None:
    host.write("/lib", shared_object(name))
    assert soname(host, "/lib") == name


def test_a_library_may_have_none(host: FakeHost) -> None:
    host.write("/lib", without_soname(shared_object("libcuda.so.1")))
    assert soname(host, "/lib") is None


def test_a_linkers_own_work_is_read(host: FakeHost) -> None:
    host.write("/lib", Path(_core.__file__).read_bytes())
    assert soname(host, "/lib") is None
    host.write("/lib", Path(sys.executable).resolve().read_bytes())
    assert soname(host, "/lib") is None


def test_libraries_of_this_machine_say_what_their_files_are_called(host: FakeHost) -> None:
    maps = Path("/proc/self/maps").read_text().splitlines()
    loaded = {line.rpartition(" ")[2] for line in maps if "/libc.so.6" in line}
    assert loaded
    for path in loaded:
        host.write("/lib", Path(path).read_bytes())
        assert soname(host, "/lib") == "libc.so.6"


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n" * 100, b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_library_is_said_so(host: FakeHost, content: bytes) -> None:
    host.write("/lib", content)
    with pytest.raises(UnreadableElf):
        soname(host, "/lib")


WHOLE = shared_object("libcuda.so.1")


@given(
    st.integers(0, len(WHOLE)), st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8)))
)
def test_a_damaged_library_is_unreadable_or_read_never_more(
    host: FakeHost, cut: int, changes: list[tuple[int, bytes]]
) -> None:
    content = bytearray(WHOLE)
    for at, change in changes:
        content[at : at + len(change)] = change
    host.write("/lib", bytes(content[:cut] if cut % 2 else content))
    try:
        found = soname(host, "/lib")
    except UnreadableElf:
        return
    assert found is None or len(found) < 256
