"""What the page "Living on a node" promises is what programs and chart do."""

from __future__ import annotations

from pathlib import Path

import yaml

from nvdra.gpu.edits import DriverFiles, common_edits
from nvdra.node.gpu.discovery import LOOK_EVERY_S
from nvdra.nvml.session import IDLE_S
from nvdra.programs.kubelet_plugin import STOP_S

ROOT = Path(__file__).parents[3]
PAGE = " ".join((ROOT / "docs/guide/living-on-a-node.md").read_text(encoding="utf-8").split())
VALUES = yaml.safe_load((ROOT / "deploy/helm/dra-driver-nvidia-gpu/values.yaml").read_text())


def test_its_times_are_the_programs() -> None:
    assert "closes it five seconds later" in PAGE
    assert IDLE_S == 5.0
    assert "notices within ten seconds" in PAGE
    assert LOOK_EVERY_S == 10.0
    assert "at most 15 seconds after it was told to" in PAGE
    assert STOP_S == 15.0


def test_the_taint_it_names_evicts_the_plugin() -> None:
    assert "kubectl taint node NODE gpu-driver=replaced:NoExecute" in PAGE
    tolerations = VALUES["kubeletPlugin"]["tolerations"]
    assert tolerations
    assert all(one["effect"] == "NoSchedule" for one in tolerations)


def test_a_claims_file_sets_the_variables_that_it_names() -> None:
    files = DriverFiles("580.1", "/usr/lib64", (), (), (), (), (), (), (), ())
    assert common_edits(files, "/hook").env == ("NVIDIA_CTK_LIBCUDA_DIR=/usr/lib64", "NVIDIA_VISIBLE_DEVICES=void")
    assert "`NVIDIA_CTK_LIBCUDA_DIR`" in PAGE
    assert "sets it to `void`" in PAGE


def test_the_cdi_folder_is_the_charts() -> None:
    assert f"`{VALUES['cdiRoot']}` by default" in PAGE
