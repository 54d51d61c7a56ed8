"""Claims and pods that use them, in the shape of whichever API version the cluster serves; and what they were given."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.cluster.harness.api import Api, Object, pod_phase, wait_until
from tests.cluster.harness.cluster import QUICK, STAY, container
from tests.cluster.harness.driver import DRIVER, Plugin

SHOW = "nvidia-smi -L && ls /dev | grep -E '^nvidia[0-9]+$' && echo done"
"""Prints the GPUs that a container sees, by UUID and by device node."""
_UUID = re.compile(r"UUID: (GPU-[0-9a-f-]+)")
_NODE = re.compile(r"^nvidia\d+$", re.MULTILINE)


def claim(api: Api, name: str, count: int = 1, selector: str | None = None) -> Object:
    """A claim for `count` GPUs that match the CEL expression `selector`."""
    return {"kind": "ResourceClaim", "metadata": {"name": name}, "spec": _spec(api, count, selector)}


def template(api: Api, name: str, count: int = 1) -> Object:
    """A template from which every pod that names it gets a claim of its own."""
    spec = {"spec": _spec(api, count, None)}
    return {"kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": spec}


def _spec(api: Api, count: int, selector: str | None) -> Object:
    exactly: Object = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": count}
    if selector is not None:
        exactly["selectors"] = [{"cel": {"expression": selector}}]
    # What v1 puts below `exactly` lies in the request itself in v1beta1.
    request = {"name": "gpu", **exactly} if api.dra == "v1beta1" else {"name": "gpu", "exactly": exactly}
    return {"devices": {"requests": [request]}}


def user(name: str, source: str, containers: tuple[str, ...] = ("main",), script: str = "", **spec: object) -> Object:
    """A pod whose containers use one claim and show what they see of it.

    source  name of the claim; of a template if it ends in `-template`
    script  what a container does after that; by default it stays
    """
    key = "resourceClaimTemplateName" if source.endswith("-template") else "resourceClaimName"
    after = script or STAY
    uses: Object = {"claims": [{"name": "gpus"}]}
    return {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "resourceClaims": [{"name": "gpus", key: source}],
            "containers": [container(each, f"{SHOW}; {after}", resources=uses) for each in containers],
            **QUICK,
            **spec,
        },
    }


def wait_running(api: Api, *names: str, timeout_s: float = 90.0) -> None:
    """All containers of these pods run. The failure's text holds the pod's events."""
    for name in names:
        wait_until(
            f"pod {name} to run",
            lambda name=name: pod_phase(api.get("Pod", name)) == "Running",  # type: ignore[misc]
            timeout_s,
            lambda name=name: (pod_phase(api.get("Pod", name)), api.events(name)),  # type: ignore[misc]
        )


def life(api: Api, pod: str) -> str:
    """What tells one life of a pod's container from the next."""
    status = api.get("Pod", pod)["status"]["containerStatuses"][0]
    return f"{status['containerID']} restarted {status['restartCount']} times"


@dataclass(frozen=True, slots=True)
class Sight:
    """The GPUs that a container sees."""

    uuids: frozenset[str]
    nodes: frozenset[str]
    """Names below /dev."""


def sight(text: str) -> Sight:
    """What the output of SHOW says."""
    return Sight(frozenset(_UUID.findall(text)), frozenset(_NODE.findall(text)))


def seen(api: Api, pod: str, container_name: str = "main") -> Sight:
    """What a container of a pod saw when it started."""
    wait_until(
        f"{pod}/{container_name} to say what it sees",
        lambda: api.logs(pod, container_name).endswith("done\n"),
        30,
        lambda: api.logs(pod, container_name),
        every_s=0.3,
    )
    return sight(api.logs(pod, container_name))


def claim_of(api: Api, pod: str) -> Object:
    """The claim that a pod uses, whether named or made from a template."""
    body = api.get("Pod", pod)
    named = body["spec"]["resourceClaims"][0].get("resourceClaimName")
    return api.get("ResourceClaim", named or body["status"]["resourceClaimStatuses"][0]["resourceClaimName"])


def given(plugin: Plugin, pod: str) -> Sight:
    """What a pod's claim gives, on which claim, ResourceSlice, CDI document and checkpoint must agree.

    Raises AssertionError where they do not.
    """
    body = claim_of(plugin.cluster.api, pod)
    uid = body["metadata"]["uid"]
    results = [each for each in body["status"]["allocation"]["devices"]["results"] if each["driver"] == DRIVER]
    names = {each["device"] for each in results}
    # A kubelet of 1.32 deletes the slices of a plugin that left, even when the next one is there.
    wait_until("the devices to be published", lambda: names <= plugin.uuids().keys(), 60, plugin.tail)
    published = plugin.uuids()
    uuids = frozenset(published[name] for name in names)
    assert len(uuids) == len(results), f"claim {uid} was allocated a device twice, or two of the same UUID: {results}"

    document = plugin.document(uid)
    assert document is not None, f"claim {uid} has no CDI document"
    assert {each["name"] for each in document["devices"]} == {f"{uid}-{name}" for name in names}
    paths = [node["path"] for each in document["devices"] for node in each["containerEdits"]["deviceNodes"]]
    nodes = frozenset(path.removeprefix("/dev/") for path in paths if _NODE.match(path.removeprefix("/dev/")))
    minors = {int(node.removeprefix("nvidia")) for node in nodes}
    assert {plugin.root.gpu(minor).uuid for minor in minors} == uuids

    entry = plugin.checkpoint()[uid]
    assert entry["checkpointState"] == "PrepareCompleted"
    recorded = [device for group in entry["preparedDevices"] for device in group["devices"]]
    assert frozenset(each["gpu"]["info"]["uuid"] for each in recorded) == uuids
    assert {each["gpu"]["device"]["DeviceName"] for each in recorded} == names
    return Sight(uuids, nodes)


def remove(api: Api, pods: tuple[str, ...], claims: tuple[str, ...] = (), templates: tuple[str, ...] = ()) -> None:
    """Pods, then claims and templates, are gone."""
    for kind, names in (("Pod", pods), ("ResourceClaim", claims), ("ResourceClaimTemplate", templates)):
        for name in names:
            api.delete(kind, name)
        for name in names:
            wait_until(
                f"{kind} {name} to be gone",
                lambda kind=kind, name=name: api.find(kind, name) is None,  # type: ignore[misc]
                60,
                lambda name=name: api.events(name),  # type: ignore[misc]
            )
