"""Fabric partitions with the chart's driver: the scheduler chooses GPUs of one, and it is active for their pod."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from nvdra_mock_nvml import MockFabric, lay_fabric
from nvdra_mock_nvml.fabric import LIBRARY

from tests.cluster.harness.api import wait_until
from tests.cluster.harness.claims import claim, claim_of, remove, user, wait_running
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.unproven import UNPROVEN

pytestmark = [pytest.mark.cluster, UNPROVEN]


@pytest.fixture(scope="module")
def fabric(plugin: Plugin) -> Iterator[MockFabric]:
    """Fabric Manager beside the driver with its gate on; gone again afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    made = lay_fabric(plugin.root)
    plugin.release.upgrade("--set=featureGates.FabricManagerPartitioning=true")
    plugin.wait_published()
    yield made
    plugin.release.upgrade()
    plugin.wait_published()
    shutil.rmtree(made.folder)
    shutil.rmtree(plugin.root.procfs / "driver/nvidia-nvswitch")
    for name in (LIBRARY, f"{LIBRARY}.1"):
        (plugin.root.library.parent / name).unlink()


def test_the_gpus_of_a_partition_are_chosen_and_linked_for_their_pod(plugin: Plugin, fabric: MockFabric) -> None:
    api = plugin.cluster.api
    body = claim(api, "linked", count=4)
    body["spec"]["devices"]["constraints"] = [{"requests": ["gpu"], "matchAttribute": f"{DRIVER}/partition4"}]
    api.create(body)
    api.create(user("linked", "linked"))
    wait_running(api, "linked")
    results = claim_of(api, "linked")["status"]["allocation"]["devices"]["results"]
    modules = {plugin.root.gpu(int(each["device"].removeprefix("gpu-"))).module_id for each in results}
    assert modules in ({1, 2, 3, 4}, {5, 6, 7, 8})
    assert fabric.active() == {1 if 1 in modules else 2}
    remove(api, ("linked",), ("linked",))
    wait_until("the partition to be inactive", lambda: not fabric.active(), 60, plugin.tail)
