"""Reading a folder that a running program writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.folders import contents


def test_a_file_that_vanishes_before_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_bytes(b"x")
    (tmp_path / ".258013198287").write_bytes(b"half")
    read = Path.read_bytes

    def swept_meanwhile(path: Path) -> bytes:
        if path.name != "kept":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", swept_meanwhile)
    assert contents(tmp_path) == {"kept": b"x"}


def test_folders_and_dangling_links_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert contents(tmp_path) == {}
