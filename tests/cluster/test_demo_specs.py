"""The Go driver's own demo/specs, applied by path as they are, and what their containers see.

`$NVDRA_DEMO_SPECS` names the folder; by default it is that of v0.4.1 in Go's module cache. A stand-in has the name
of every image in it. A spec's twin for an older API is applied over it, and must ask for the same.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from nvdra_mock_nvml import Root, lay_out

from tests.cluster.harness import images
from tests.cluster.harness.api import Object, pod_phase, wait_until
from tests.cluster.harness.driver import DRIVER, Installed, Plugin
from tests.cluster.harness.helm_release import NAMESPACE
from tests.cluster.unproven import UNPROVEN

FOLDER = "NVDRA_DEMO_SPECS"
MODULE = "sigs.k8s.io/dra-driver-nvidia-gpu@v0.4.1"

PLAIN: tuple[str, ...] = ("quickstart/v1/gpu-test1", "quickstart/v1/gpu-test2", "quickstart/v1/gpu-test3")
PLAIN += ("quickstart/gpu-test7", "quickstart/gpu-test8", "extended-resources/gpu-full")
"""Served with the chart's own gates."""
SHARED = ("quickstart/v1/gpu-test-mps", "quickstart/v1/gpu-test5")
"""Served with the gates for time slices and MPS."""
PARTITIONED, MISTAKEN = "quickstart/v1/gpu-test4", "quickstart/v1/gpu-test6"
"""Served on A100 that `mig-parted-config.yaml` partitions; and what asks for an attribute that they lack."""
OLD: tuple[str, ...] = ("mig+mps/sharing-demo-claims", "mig+mps/sharing-demo-claims-1", "mig+mps/sharing-demo-job")
OLD += ("mig+mps/sharing-demo-job-1", "mig+mps/sharing-demo-parameters", "mig+mps/sharing-demo-parameters-1")
OLD += ("selectors/claims", "selectors/parameters", "selectors/pods")
"""Of resource.k8s.io/v1alpha2, with kinds of a driver long gone."""
NO_OBJECTS = ("quickstart/mig-parted-config", "mig+mps/sharing-demo-mig-parted-config")
"""For nvidia-mig-parted."""
SKIPPED = {
    "imex": "of ComputeDomains, not of GPUs",
    "imex-test1": "of ComputeDomains, not of GPUs; its class imex.nvidia.com is in no release any more",
    "mig-1g-12gb": "1g.12gb is a profile of GPUs with 96 GB, of which there is no portrait",
    "gpu-test-vfiopci": "needs PassthroughSupport and a kernel's stand-ins: test_vfio.py",
    "gpu-test-vfio-config": "its pod is in a namespace that nothing makes",
}
"""By a folder's name or a file's."""

LONG, EXCLUSIVE = 3, 3
STAY = "nvidia-smi -L; trap 'exit 0' TERM; sleep 9999 & wait"
SCRIPTS = {"bin/bash": '#!/bin/sh\nexec /bin/sh "$@"\n', "tmp/sample": "#!/bin/sh\nnvidia-smi -L\nexec sleep 9999\n"}
_UUID = re.compile(r"UUID: ((?:GPU|MIG)-[0-9a-f-]+)")


@cache
def folder() -> Path | None:
    """Where the specs are, if they are there."""
    if given := os.environ.get(FOLDER):
        return Path(given)
    done = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=False)
    found = Path(done.stdout.strip()) / MODULE / "demo" / "specs"
    return found if found.is_dir() else None


pytestmark = [
    UNPROVEN,
    pytest.mark.cluster,
    pytest.mark.skipif(
        folder() is None,
        reason=f"the specs are not in Go's module cache: `go mod download {MODULE}`, or name their folder by ${FOLDER}",
    ),
]


def path_of(name: str) -> Path:
    """The file of a spec, by its place below the folder."""
    found = folder()
    assert found is not None
    return found / f"{name}.yaml"


def objects(name: str) -> list[Object]:
    return [each for each in yaml.safe_load_all(path_of(name).read_text()) if each]


def namespace_of(name: str) -> str:
    """The namespace that a spec makes."""
    (made,) = [each["metadata"]["name"] for each in objects(name) if each["kind"] == "Namespace"]
    assert isinstance(made, str)
    return made


def reason_to_skip(name: str) -> str | None:
    first, last = name.split("/")[0], name.split("/")[-1]
    return SKIPPED.get(first) or SKIPPED.get(last)


def names() -> list[str]:
    """Every spec in the folder, by its place."""
    found = folder()
    return [] if found is None else sorted(str(each.relative_to(found))[:-5] for each in found.rglob("*.yaml"))


def twin(name: str) -> str:
    return name.replace("/v1/", "/v1beta1/")


@pytest.fixture(scope="module")
def plain(plugin: Plugin) -> Iterator[Installed]:
    """The driver with the chart's own gates, and images by the specs' names for them; nothing is left afterwards."""
    if not isinstance(plugin, Installed):
        pytest.skip("another program takes the place of what the chart installs")
    archive = plugin.cluster.folder / "demo-images.tar"
    wanted = {image for name in names() for image in re.findall(r"image: (\S+)", path_of(name).read_text())}
    # As a container runtime completes them.
    whole = {image if "/" in image else f"docker.io/library/{image}" for image in wanted}
    images.write_archive(archive, dict.fromkeys(sorted(whole), ("/bin/sh", "-c", STAY)), SCRIPTS)
    plugin.cluster.node.import_images(archive)
    yield plugin
    wait_nothing_left(plugin)


@pytest.fixture(scope="module")
def a100(plain: Installed) -> Iterator[Installed]:
    """The driver on eight A100, half of them partitioned, with gates for time slices and MPS; as before afterwards."""
    release = replace(plain.release, root=lay_out(plain.cluster.folder / "driver-a100", "a100x8"))
    node = Installed(release)
    wait_nothing_left(plain)
    plain.stop()
    try:
        release.upgrade("--set=featureGates.TimeSlicingSettings=true", "--set=featureGates.MPSSupport=true")
        node.start()
        partition(node.root)
        made = {each.uuid for each in node.root.mig_devices()}
        wait_until("the partitions to be offered", lambda: made <= set(node.uuids().values()), 30, node.uuids)
        yield node
        wait_nothing_left(node)
    finally:
        node.stop()
        plain.release.upgrade()
        plain.start()


def partition(root: Root) -> None:
    """The GPUs as the quickstart has them before it begins."""
    (config,) = objects("quickstart/mig-parted-config")
    for part in config["mig-configs"]["half-balanced"]:
        for minor in part["devices"] if part["mig-enabled"] else ():
            root.set_mig_mode(minor, True)
            for profile, count in part["mig-devices"].items():
                for _ in range(count):
                    root.create_mig(minor, profile)


def wait_nothing_left(plugin: Installed) -> None:
    """No namespace of a spec, nothing kept for its claims, and every GPU with its own settings."""
    api, root = plugin.cluster.api, plugin.root
    made = {namespace_of(name) for name in (*PLAIN, *SHARED, PARTITIONED, MISTAKEN)}

    def left() -> list[object]:
        namespaces = made & {each["metadata"]["name"] for each in api.items("Namespace")}
        deployments = [each["metadata"]["name"] for each in api.items("Deployment", NAMESPACE)]
        daemons = [each for each in deployments if each.startswith("mps-control-daemon-")]
        minors = [gpu.minor for gpu in root.portrait.gpus if root.time_slice(gpu.minor) or root.compute_mode(gpu.minor)]
        traces = plugin.traces()
        documents = [each for each in traces.documents if f"{DRIVER}-claim_" in each]
        return [each for each in (namespaces, daemons, minors, traces.claims, documents) if each]

    wait_until("nothing to be left", lambda: not left(), 60, lambda: (left(), plugin.tail()), every_s=0.5)


@contextmanager
def applied(plugin: Installed, name: str) -> Iterator[str]:
    """The namespace of the spec, applied; deleted afterwards, of which the end is not waited for."""
    path, namespace = str(path_of(name)), namespace_of(name)
    # A spec and its twin have one namespace.
    wait_until("the namespace to be free", lambda: plugin.cluster.api.find("Namespace", namespace) is None, 40)
    plugin.cluster.kubectl("apply", "-f", path)
    try:
        yield namespace
    finally:
        plugin.cluster.kubectl("delete", "-f", path, "--wait=false", "--ignore-not-found")


def pods_of(plugin: Installed, name: str) -> list[Object]:
    """The pods of the spec, once all have been made."""
    wanted = sum(
        {"Pod": 1, "Deployment": (each.get("spec") or {}).get("replicas", 1)}.get(each["kind"], 0)
        for each in objects(name)
    )
    api, namespace = plugin.cluster.api, namespace_of(name)
    wait_until(f"{wanted} pods", lambda: len(api.items("Pod", namespace)) == wanted, 20)
    return api.items("Pod", namespace)


def given(plugin: Installed, name: str) -> dict[tuple[str, str], frozenset[str]]:
    """By claim and request: UUIDs that the driver recorded as prepared for the spec, the scheduler's choice in full.

    Waits until all containers of the spec run, and have seen by themselves what is theirs.
    """
    api, namespace = plugin.cluster.api, namespace_of(name)
    pods = [each["metadata"]["name"] for each in pods_of(plugin, name)]

    def state() -> list[tuple[str, str, str]]:
        found = [(each["metadata"]["name"], pod_phase(each)) for each in api.items("Pod", namespace)]
        return [(pod, phase, api.events(pod, namespace)) for pod, phase in found]

    wait_until(
        f"pods {pods} to run",
        lambda: all(pod_phase(each) == "Running" for each in api.items("Pod", namespace)),
        60,
        state,
    )
    found: dict[tuple[str, str], frozenset[str]] = {}
    for body in api.items("ResourceClaim", namespace):
        entry = plugin.checkpoint()[body["metadata"]["uid"]]
        assert entry["checkpointState"] == "PrepareCompleted"
        uuids = recorded(entry)
        results = [each for each in body["status"]["allocation"]["devices"]["results"] if each["driver"] == DRIVER]
        assert {each["device"] for each in results} == uuids.keys()
        for each in results:
            key = (body["metadata"]["name"], each["request"])
            found[key] = found.get(key, frozenset()) | {uuids[each["device"]]}
    for pod in api.items("Pod", namespace):
        for container in pod["spec"]["containers"]:
            if "nvidia-smi;" not in str(container.get("args")):
                must_see(plugin, pod, container, found)
    return found


def recorded(entry: Any) -> dict[str, str]:
    """Device name → UUID of a checkpoint's entry."""
    uuids: dict[str, str] = {}
    for group in entry["preparedDevices"]:
        for device in group["devices"]:
            if "gpu" in device:
                uuids[device["gpu"]["device"]["DeviceName"]] = device["gpu"]["info"]["uuid"]
            else:
                uuids[device["mig"]["device"]["DeviceName"]] = device["mig"]["concrete"]["migUUID"]
    return uuids


def must_see(
    plugin: Installed, pod: Object, container: Object, all_given: dict[tuple[str, str], frozenset[str]]
) -> None:
    """A container sees the devices of its requests, and no others."""
    status, name, namespace = pod["status"], pod["metadata"]["name"], pod["metadata"]["namespace"]
    named = {each["name"]: each.get("resourceClaimName") for each in pod["spec"].get("resourceClaims", [])}
    named |= {each["name"]: each["resourceClaimName"] for each in status.get("resourceClaimStatuses", [])}
    uses = [(named[each["name"]], each.get("request")) for each in container["resources"].get("claims", [])]
    if extended := status.get("extendedResourceClaimStatus"):
        maps = [each for each in extended["requestMappings"] if each["containerName"] == container["name"]]
        uses = [(extended["resourceClaimName"], each["requestName"]) for each in maps]
    wanted = frozenset[str]().union(
        *(uuids for (claim, request), uuids in all_given.items() if {(claim, request), (claim, None)} & set(uses))
    )
    assert wanted

    def seen() -> frozenset[str]:
        found = _UUID.findall(plugin.cluster.api.logs(name, container["name"], namespace))
        mig = [each for each in found if each.startswith("MIG-")]
        return frozenset(mig or found)

    wait_until(f"{name}/{container['name']} to see {sorted(wanted)}", lambda: seen() == wanted, 20, seen)


def takes_the_twin(plugin: Installed, name: str) -> None:
    """The same spec for an older API, applied over it, changes no claim, of which the server would let none change."""
    if not path_of(twin(name)).exists() or twin(name) == name:
        return
    before = {each["metadata"]["uid"] for each in plugin.cluster.api.items("Pod", namespace_of(name))}
    plugin.cluster.kubectl("apply", "-f", str(path_of(twin(name))))
    assert {each["metadata"]["uid"] for each in plugin.cluster.api.items("Pod", namespace_of(name))} == before


def test_every_spec_is_spoken_of_here() -> None:
    spoken = {*PLAIN, *SHARED, PARTITIONED, MISTAKEN, *OLD, *NO_OBJECTS}
    spoken |= {twin(name) for name in spoken}
    assert [name for name in names() if name not in spoken and not reason_to_skip(name)] == []


@pytest.mark.parametrize("name", [name for name in names() if reason_to_skip(name)])
def test_a_spec_that_is_not_for_this_node(name: str) -> None:
    pytest.skip(f"{name}: {reason_to_skip(name)}")


@pytest.mark.parametrize("name", OLD)
def test_a_spec_of_an_older_api_is_refused_by_the_server(plain: Installed, name: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"no matches for kind|strict decoding error: unknown field .*resourceClaims"
    ):
        plain.cluster.kubectl("apply", "-f", str(path_of(name)))


@pytest.mark.parametrize("name", PLAIN)
def test_a_spec_is_served_as_it_is(plain: Installed, name: str) -> None:
    with applied(plain, name):
        found = given(plain, name)
        uuids = [uuid for each in found.values() for uuid in each]
        assert len(uuids) == len(set(uuids)), "two claims have one GPU"
        takes_the_twin(plain, name)


@pytest.mark.parametrize("name", SHARED)
def test_a_spec_with_settings_is_served_as_it_is(a100: Installed, name: str) -> None:
    root = a100.root
    minors = {gpu.uuid: gpu.minor for gpu in root.portrait.gpus}
    with applied(a100, name):
        for (_, request), uuids in given(a100, name).items():
            for uuid in uuids:
                settings = root.time_slice(minors[uuid]), root.compute_mode(minors[uuid])
                assert settings == ((LONG, 0) if request == "ts-gpu" else (0, EXCLUSIVE))
        takes_the_twin(a100, name)


def test_a_spec_for_partitions_is_served_as_it_is(a100: Installed) -> None:
    owner = {each.uuid: each.minor for each in a100.root.mig_devices()}
    with applied(a100, PARTITIONED):
        found = given(a100, PARTITIONED)
        assert sorted(uuid for uuids in found.values() for uuid in uuids) == sorted(owner)
        for claim in {claim for claim, _ in found}:
            assert len({owner[uuid] for (of, _), uuids in found.items() for uuid in uuids if of == claim}) == 1
        takes_the_twin(a100, PARTITIONED)


@pytest.mark.parametrize("name", [MISTAKEN, twin(MISTAKEN)])
def test_a_spec_that_asks_for_what_no_release_publishes_is_told_so(a100: Installed, name: str) -> None:
    """It selects by the attribute `index`, which GPUs of the Go driver v0.4.1 do not have either."""
    api = a100.cluster.api
    with applied(a100, name) as namespace:
        pods = [each["metadata"]["name"] for each in pods_of(a100, name)]

        def told() -> list[str]:
            return [api.events(pod, namespace) for pod in pods]

        wait_until("the scheduler to say why", lambda: all("no such key: index" in each for each in told()), 20, told)
