"""Full GPU, MPS and health on real GPUs under the real cluster, through the chart; `run.py` calls it.

Every scenario stands alone: one that fails is in the report with its reason, and the next one runs. No compute mode,
MIG mode, clock, persistence mode or time slice is changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nvdra_mock_nvml import lay_out

from tests.cluster.harness import driver_image
from tests.cluster.harness.api import Object, TimedOut, pod_phase, wait_until
from tests.cluster.harness.claims import claim, claim_of, remove
from tests.cluster.harness.cluster import Cluster, cluster
from tests.cluster.harness.control_plane import V1_37
from tests.cluster.harness.helm_release import LABEL, NAMESPACE, HelmRelease
from tests.cluster.harness.seclusion import inside
from tests.cluster.real_gpu.pods import COMPUTE, FAULT, pod

DRIVER = "gpu.nvidia.com"
_QUERY = "index,name,uuid,driver_version,compute_mode,mig.mode.current,persistence_mode"


class RealRelease(HelmRelease):
    """The chart on a node whose driver is installed in its root."""

    __slots__ = ()

    def values(self) -> Object:
        values = super().values()
        values["nvidiaDriverRoot"] = "/"
        del values["kubeletPlugin"]["containers"]
        return values


@dataclass(slots=True)
class Report:
    """Lines of Markdown, written as they come."""

    path: Path
    failed: list[str] = field(default_factory=list)

    def line(self, text: str = "") -> None:
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(text + "\n")

    def block(self, text: str) -> None:
        self.line("```\n" + text.rstrip() + "\n```\n")


@dataclass(slots=True)
class Stage:
    """The cluster with the chart on it."""

    up: Cluster
    release: HelmRelease
    image: str
    report: Report
    is_mock: bool

    def slices(self) -> list[Object]:
        return [each for each in self.up.api.items("ResourceSlice") if each["spec"]["driver"] == DRIVER]

    def devices(self) -> list[Object]:
        return [device for each in self.slices() for device in each["spec"].get("devices") or []]

    def wait_published(self) -> float:
        """Seconds until a device is published."""
        began = time.monotonic()
        wait_until("a device to be published", lambda: bool(self.devices()), 90, self.why)
        return time.monotonic() - began

    def upgrade(self, *settings: str) -> None:
        """The release with other settings, once its new pod is the only one and is Ready."""
        before = {each["metadata"]["uid"] for each in self.release.pods()}
        self.release.upgrade(*(f"--set={each}" for each in settings))

        def is_new() -> bool:
            now = {each["metadata"]["uid"] for each in self.release.pods()}
            return len(now) == 1 and not now & before and self.release.is_ready()

        wait_until("the driver's new pod to be Ready", is_new, 90, self.why)

    def run(self, name: str, code: str, claim_name: str) -> None:
        self.up.api.create(pod(name, self.image, code, claim_name))

    def said(self, name: str, timeout_s: float = 60.0) -> str:
        """What a pod printed, once it is done."""
        api = self.up.api

        def logs() -> str:
            try:
                return api.logs(name, "main")
            except Exception as refused:
                return str(refused)

        def is_done() -> bool:
            if pod_phase(api.get("Pod", name)) == "Failed":
                raise RuntimeError(f"{name} failed: {logs()}")
            return logs().rstrip().endswith("done")

        wait_until(f"{name} to be done", is_done, timeout_s, lambda: (logs(), api.events(name)))
        return logs()

    def why(self) -> object:
        logs = []
        for each in self.release.pods():
            name = each["metadata"]["name"]
            try:
                logs.append(self.up.kubectl("logs", f"--namespace={NAMESPACE}", "--tail=30", name, "--container=gpus"))
            except RuntimeError as refused:
                logs.append(str(refused))
        return self.release.state(), logs

    def settings(self) -> str:
        """What nvidia-smi says of the settings that nothing here may change."""
        return self.smi(f"--query-gpu={_QUERY}")

    def smi(self, query: str) -> str:
        """One answer of nvidia-smi, of the mock's where GPUs are mocked."""
        program = self.release.root.root / "usr/bin/nvidia-smi" if self.is_mock else "nvidia-smi"
        command = [str(program), query, "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def full_gpu(stage: Stage) -> None:
    """A pod computes on the GPU of its claim."""
    api = stage.up.api
    api.create(claim(api, "full"))
    began = time.monotonic()
    stage.run("full", COMPUTE, "full")
    said = stage.said("full")
    stage.report.line(f"Pod created to its last line: {time.monotonic() - began:.1f} s.")
    stage.report.block(said)
    (given,) = claim_of(api, "full")["status"]["allocation"]["devices"]["results"]
    (uuid,) = (each["attributes"]["uuid"]["string"] for each in stage.devices() if each["name"] == given["device"])
    stage.report.line(f"The claim was given `{given['device']}`, published with UUID `{uuid}`.")
    assert f"uuid {uuid}" in said
    assert "computed True" in said
    remove(api, ("full",), ("full",))


def _through_mps(body: Object, settings: Object) -> Object:
    """The claim, with MPS as these settings say."""
    sharing = {"strategy": "MPS", "mpsConfig": settings}
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": sharing}
    body["spec"]["devices"]["config"] = [{"opaque": {"driver": DRIVER, "parameters": parameters}}]
    return body


def mps(stage: Stage) -> None:
    """Two pods share one GPU through the real MPS daemon, with limits that CUDA sees."""
    api = stage.up.api
    stage.upgrade("featureGates.MPSSupport=true", "mpsComputeMode=unchanged")
    stage.wait_published()
    limits = {"defaultActiveThreadPercentage": 50, "defaultPinnedDeviceMemoryLimit": "4Gi"}
    api.create(_through_mps(claim(api, "mps"), limits))
    before = stage.settings()
    began = time.monotonic()
    stage.run("mps-a", COMPUTE, "mps")
    stage.run("mps-b", COMPUTE, "mps")
    a, b = stage.said("mps-a"), stage.said("mps-b")
    stage.report.line(f"Both pods created to the last line of both: {time.monotonic() - began:.1f} s.\n")
    stage.report.line("Pod `mps-a`:\n")
    stage.report.block(a)
    stage.report.line("Pod `mps-b`:\n")
    stage.report.block(b)
    stage.report.line("What `nvidia-smi` lists meanwhile:\n")
    stage.report.block(stage.smi("--query-compute-apps=pid,name,used_memory"))
    daemons = [each for each in api.items("Pod", NAMESPACE) if "mps-control-daemon" in each["metadata"]["name"]]
    stage.report.line(f"Ready since {_ready_since(daemons[0])}; log of the daemon's pod:\n")
    name = daemons[0]["metadata"]["name"]
    stage.report.block(stage.up.kubectl("logs", f"--namespace={NAMESPACE}", "--tail=15", name))
    assert before == stage.settings(), stage.settings()
    for said in (a, b):
        assert "computed True" in said
        assert "allocated MiB [512, 1024]" in said
    remove(api, ("mps-a", "mps-b"), ("mps",))
    wait_until(
        "the daemon to be gone",
        lambda: not [each for each in api.items("Deployment", NAMESPACE) if "mps-" in each["metadata"]["name"]],
        60,
    )
    assert before == stage.settings(), stage.settings()
    stage.report.line("The daemon went with the claim; compute mode was the same before, meanwhile and afterwards.")


def shares(stage: Stage) -> None:
    """Two claims share a GPU by memory, each with its own limit under one MPS daemon."""
    api = stage.up.api
    gates = ("featureGates.MPSSupport=true", "featureGates.ConsumableShares=true")
    stage.upgrade(*gates, "mpsComputeMode=unchanged", "mpsUnderShares=true", "consumableShares=memory")
    wait_until(
        "devices to be shared",
        lambda: any(each.get("allowMultipleAllocations") for each in stage.devices()),
        40,
        stage.devices,
    )
    before = stage.settings()
    for name, memory in (("small", "2Gi"), ("large", "8Gi")):
        body = claim(api, name)
        body["spec"]["devices"]["requests"][0]["exactly"]["capacity"] = {"requests": {"memory": memory}}
        api.create(_through_mps(body, {"defaultActiveThreadPercentage": 50}))
        stage.run(name, COMPUTE, name)
    texts = {name: stage.said(name) for name in ("small", "large")}
    for name, said in texts.items():
        (given,) = claim_of(api, name)["status"]["allocation"]["devices"]["results"]
        stage.report.line(f"Pod `{name}`, consumed capacity `{given['consumedCapacity']}`:\n")
        stage.report.block(said)
    assert "allocated MiB [512, 1024]" in texts["small"]
    assert "allocated MiB [512, 1024, 4096]" in texts["large"]
    remove(api, tuple(texts), tuple(texts))
    assert before == stage.settings(), stage.settings()


def _ready_since(body: Object) -> str:
    return next(
        (each["lastTransitionTime"] for each in body["status"]["conditions"] if each["type"] == "Ready"), "never"
    )


def health(stage: Stage) -> None:
    """A pod's wild write becomes a taint with effect None, and other pods compute on."""
    api = stage.up.api
    stage.upgrade("featureGates.NVMLDeviceHealthCheck=true")
    stage.wait_published()
    api.create(claim(api, "fault"))
    stage.run("fault", FAULT, "fault")
    seen: list[Object] = []

    def is_tainted() -> bool:
        seen[:] = [taint for each in stage.devices() for taint in each.get("taints") or []]
        return bool(seen)

    try:
        wait_until("a taint", is_tainted, 40, stage.why, every_s=0.02)
        found = time.time()
        said = stage.said("fault")
        wrote = next(float(line.split()[-1]) for line in said.splitlines() if line.startswith("writes at"))
        stage.report.line(f"Taint seen {1000 * (found - wrote):.0f} ms after the pod said that it writes.\n")
    except TimedOut:
        stage.report.block(stage.said("fault"))
        raise
    finally:
        stage.report.block(json.dumps(seen, indent=1))
    stage.report.block(said)
    body = api.get("Pod", "fault")
    stage.report.line("Pod status, resource health:\n")
    stage.report.block(
        json.dumps([each.get("allocatedResourcesStatus") for each in body["status"]["containerStatuses"]])
    )
    remove(api, ("fault",), ("fault",))
    began = time.monotonic()
    wait_until("the taint to go", lambda: not is_tainted(), 100, lambda: seen)
    stage.report.line(f"The taint went {time.monotonic() - began:.0f} s after the pod.")


def _clear(stage: Stage) -> None:
    """Nothing of a scenario is left that could hold a GPU."""
    api = stage.up.api
    pods, claims = ([each["metadata"]["name"] for each in api.items(kind)] for kind in ("Pod", "ResourceClaim"))
    if pods or claims:
        remove(api, tuple(pods), tuple(claims))


SCENARIOS: dict[str, Callable[[Stage], None]] = {"full": full_gpu, "mps": mps, "shares": shares, "health": health}


def main() -> int:
    """0 if all scenarios went as they should."""
    parser = argparse.ArgumentParser(prog="scenarios", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mock", default="", help="a portrait instead of real GPUs: CUDA fails, all else is as there")
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, by name")
    options = parser.parse_args()
    report = Report(options.out / "report.md")
    began = time.monotonic()
    with cluster(V1_37, inside()) as up:
        report.line(f"Node Ready {time.monotonic() - began:.1f} s after start, Kubernetes {V1_37.version}.")
        image, archive = driver_image.built()
        up.node.import_images(archive)
        root = lay_out(up.folder / "driver", options.mock or "h100x8")
        release = (HelmRelease if options.mock else RealRelease)(up, root, image)
        stage = Stage(up, release, image, report, bool(options.mock))
        report.block(stage.settings())
        release.install()
        up.kubectl("label", "node", "--overwrite", up.node.name, f"{LABEL}=true")
        report.line(f"First device published {stage.wait_published():.1f} s after helm returned.")
        report.block(json.dumps([stage.devices()[0]], indent=1))
        for name in options.only.split(","):
            report.line(f"\n## {name}: {(SCENARIOS[name].__doc__ or '').strip()}\n")
            at = time.monotonic()
            try:
                SCENARIOS[name](stage)
            except Exception as failed:
                report.failed.append(name)
                report.line(f"FAILED: {type(failed).__name__}: {failed}")
                (options.out / f"failed-{name}.log").write_text(up.tails(40))
            _clear(stage)
            report.line(f"({time.monotonic() - at:.0f} s)")
        report.line("\nSettings afterwards:\n")
        report.block(stage.settings())
        release.uninstall()
    report.line("All went as it should." if not report.failed else f"Failed: {', '.join(report.failed)}")
    return bool(report.failed)


if __name__ == "__main__":
    raise SystemExit(main())
