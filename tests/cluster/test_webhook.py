"""The webhook and a real API server: as a process beside it for what is asked and what never is, and installed by helm
with a certificate of each kind."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.chart.rendering import GPUS, NAME
from tests.cluster.harness.api import Api, Object, Refused, wait_until
from tests.cluster.harness.children import Child
from tests.cluster.harness.control_plane import V1_32, V1_37
from tests.cluster.harness.driver import Installed
from tests.cluster.harness.helm_release import NAMESPACE, HelmRelease
from tests.contract.webhook_process import SecretVolume, make_pair

pytestmark = pytest.mark.cluster

both = pytest.mark.parametrize("up", [V1_37, V1_32], indirect=True, ids=lambda release: release.version)
SERVICE = f"{NAME}-webhook"
HOOKS = f"{NAME}-webhook-config"
MISTAKE = 'strict decoding error: unknown field "speed"'
GROUP = "resource.nvidia.com/v1beta1"


def config(driver: str = "gpu.nvidia.com", **fields: Any) -> Object:
    return {"opaque": {"driver": driver, "parameters": {"apiVersion": GROUP, "kind": "GpuConfig", **fields}}}


def claim(api: Api, name: str, *configs: Object, **metadata: Any) -> Object:
    exactly = {"deviceClassName": "gpu.nvidia.com"}
    request = {"name": "gpu", **exactly} if api.dra == "v1beta1" else {"name": "gpu", "exactly": exactly}
    spec = {"devices": {"requests": [request], "config": list(configs)}}
    return {"kind": "ResourceClaim", "metadata": {"name": name, **metadata}, "spec": spec}


def template(api: Api, name: str, *configs: Object) -> Object:
    spec = {"spec": claim(api, name, *configs)["spec"]}
    return {"kind": "ResourceClaimTemplate", "metadata": {"name": name}, "spec": spec}


def refusal(api: Api, body: Object) -> str:
    """Why the object is not created; empty if it is, and it is then removed."""
    try:
        api.create(body)
    except Refused as refused:
        message: str = json.loads("{" + str(refused).partition("{")[2])["message"]
        return message
    api.delete(body["kind"], body["metadata"]["name"], body["metadata"].get("namespace", "default"))
    return ""


def wait_refused(api: Api, text: str) -> None:
    """The API server hears of a webhook, and that it has changed, a moment later."""
    found = [""]

    def is_so() -> bool:
        found[0] = refusal(api, claim(api, "mistaken", config(speed=1)))
        return text in found[0]

    wait_until(f"a refusal with {text!r}", is_so, 60, lambda: found[0])


# ── beside the API server ──────────────────────────────────────────────────────────────────────────────────────────


class Beside:
    """The webhook as a process, and the chart's configuration with its address in the place of the Service's."""

    def __init__(self, release: HelmRelease) -> None:
        self.release, self.api = release, release.cluster.api
        self.folder = release.cluster.folder / "webhook"
        self.folder.mkdir(exist_ok=True)
        self.log = self.folder / "log"
        self.log.write_text("")
        self.pairs = self.folder / "pairs"
        self.volume: SecretVolume
        self.child: Child

    def start(self) -> None:
        self.volume = SecretVolume(self.folder / f"volume-{len(list(self.folder.iterdir()))}")
        make_pair(self.pairs)
        self.volume.put(self.pairs)
        files = [f"--tls-cert-file={self.volume.certificate}", f"--tls-private-key-file={self.volume.key}"]
        program = str(Path(sys.executable).with_name("webhook"))
        self.child = Child("webhook", [program, *files, "--port=0", "-v=4"], self.log)
        self.child.start()
        wait_until("the webhook", lambda: "Serving admission reviews" in self.log.read_text(), 30, self.child.tail)

    def register(self, **more: Any) -> None:
        """The API server asks it from now on."""
        version = {"resourceApiVersion": f"resource.k8s.io/{self.api.dra}"}
        values = {**GPUS, **version, "webhook.enabled": True}
        rendered = self.release.helm.render(values, namespace=NAMESPACE).one("ValidatingWebhookConfiguration")
        (entry,) = rendered["webhooks"]
        port = re.findall(r'"Serving admission reviews" port=(\d+)', self.log.read_text())[-1]
        path = entry["clientConfig"]["service"]["path"]
        authority = b64encode((self.pairs / "tls.crt").read_bytes()).decode()
        entry["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
        entry.update(more)
        rendered["metadata"] = {"name": HOOKS}
        self.release.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(rendered))

    def unregister(self) -> None:
        self.release.cluster.kubectl("delete", "validatingwebhookconfiguration", HOOKS, "--ignore-not-found")
        wait_until("nobody to be asked", lambda: refusal(self.api, claim(self.api, "m", config(speed=1))) == "", 60)

    def reviewed(self) -> list[str]:
        """The objects that were judged."""
        return re.findall(r'object="([^"]*)"', self.log.read_text())


@pytest.fixture
def beside(release: HelmRelease) -> Iterator[Beside]:
    made = Beside(release)
    made.start()
    try:
        yield made
    finally:
        made.unregister()
        made.child.stop()


@both
def test_mistakes_are_refused_when_they_are_made(beside: Beside) -> None:
    api = beside.api
    beside.register()
    wait_refused(api, MISTAKE)
    assert refusal(api, claim(api, "c", config(speed=1), config(sharing={"strategy": "Luck"}))) == (
        'admission webhook "gpu.nvidia.com" denied the request: 2 configs failed to validate: '
        f"error decoding object at spec.devices.config[0].opaque.parameters: {MISTAKE}; "
        "object at spec.devices.config[1].opaque.parameters is invalid: unknown GPU sharing strategy: Luck, "
        "supported GPU sharing strategies: TimeSlicing, MPS"
    )
    assert f"spec.spec.devices.config[0].opaque.parameters: {MISTAKE}" in refusal(
        api, template(api, "t", config(speed=1))
    )
    assert refusal(api, claim(api, "c", config())) == ""
    assert refusal(api, template(api, "t", config())) == ""
    domain = config("compute-domain.nvidia.com", domainID="")
    domain["opaque"]["parameters"]["kind"] = "ComputeDomainChannelConfig"
    assert "domainID cannot be empty" in refusal(api, claim(api, "c", domain))


@both
def test_what_the_api_server_never_asks_about(beside: Beside) -> None:
    api = beside.api
    api.create(claim(api, "held", config(speed=1), finalizers=["test/held"]))
    api.create(claim(api, "kept", config(speed=1)))
    beside.register()
    wait_refused(api, MISTAKE)
    # An old claim's labels change; it is asked about, and admitted.
    for name in ("kept", "held"):
        kept = api.get("ResourceClaim", name)
        kept["metadata"]["labels"] = {"mine": "yes"}
        api.call("PUT", api.path("ResourceClaim", "default", name), kept)
        assert f"default/{name}" in beside.reviewed()
    beside.child.stop()
    reviewed = beside.reviewed()
    # Now nobody answers, and with `Fail` a claim of ours cannot be created.
    wait_refused(api, 'failed calling webhook "gpu.nvidia.com"')
    assert refusal(api, claim(api, "plain")) == ""
    assert refusal(api, claim(api, "other", config("nic.example.com", any="thing"))) == ""
    assert refusal(api, claim(api, "own", config(speed=1), namespace=NAMESPACE)) == ""
    assert refusal(api, template(api, "plain")) == ""
    api.delete("ResourceClaim", "held")
    held = api.get("ResourceClaim", "held")
    assert held["metadata"]["deletionTimestamp"]
    held["metadata"]["finalizers"] = []
    api.call("PUT", api.path("ResourceClaim", "default", "held"), held)
    wait_until("the claim to be gone", lambda: api.find("ResourceClaim", "held") is None, 30)
    api.delete("ResourceClaim", "kept")
    assert beside.reviewed() == reviewed
    beside.register(failurePolicy="Ignore")
    wait_until("nobody to be missed", lambda: refusal(api, claim(api, "m", config(speed=1))) == "", 60)


@both
def test_an_expired_certificate_and_its_renewal(beside: Beside) -> None:
    api = beside.api
    make_pair(beside.pairs, days=-1)
    beside.volume.put(beside.pairs)
    beside.register()
    wait_refused(api, "certificate has expired")
    make_pair(beside.pairs)
    beside.volume.put(beside.pairs)
    wait_refused(api, "certificate signed by unknown authority")
    beside.register()
    wait_refused(api, MISTAKE)


# ── installed ──────────────────────────────────────────────────────────────────────────────────────────────────────

WEBHOOK = ("--set=webhook.enabled=true", "--set=webhook.replicas=2", "--set=webhook.podDisruptionBudget.enabled=true")


@pytest.fixture
def cluster(installed: Installed) -> Iterator[Installed]:
    try:
        yield installed
    finally:
        installed.release.upgrade()
        api = installed.cluster.api
        wait_until("nobody to be asked", lambda: refusal(api, claim(api, "m", config(speed=1))) == "", 60)


@pytest.fixture
def kinds_of_cert_manager(installed: Installed) -> Iterator[None]:
    """Its kinds, as long as the test goes on; the release is without a webhook afterwards."""
    kubectl = installed.cluster.kubectl
    kinds = [crd("Certificate", "certificates"), crd("Issuer", "issuers")]
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": kinds}))
    try:
        for each in kinds:
            wait_until("the kinds to be served", served(installed, each["metadata"]["name"]), 30)
        yield
    finally:
        # While its kinds are there: helm could not name the objects that are to go.
        installed.release.upgrade()
        kubectl("delete", "customresourcedefinitions", *(each["metadata"]["name"] for each in kinds))


def wait_serving(installed: Installed) -> None:
    """Both pods of the webhook are Ready, and answer by way of the Service."""
    installed.cluster.kubectl(
        "rollout", "status", f"deployment/{SERVICE}", f"--namespace={NAMESPACE}", "--timeout=120s"
    )
    wait_refused(installed.cluster.api, MISTAKE)


def loads(installed: Installed) -> dict[str, int]:
    """How many certificates each pod of the webhook has loaded; pods that are going do not count."""
    where = (f"--selector={NAME}-component=webhook", f"--namespace={NAMESPACE}")
    pods = json.loads(installed.cluster.kubectl("get", "pods", *where, "--output=json"))["items"]
    names = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    read = installed.cluster.api.logs
    return {name: read(name, "webhook", NAMESPACE).count("Loaded certificate") for name in names}


def secret(installed: Installed, name: str) -> Object:
    text = installed.cluster.kubectl("get", "secret", name, f"--namespace={NAMESPACE}", "--output=json")
    found: Object = json.loads(text)
    return found


def put_secret(installed: Installed, name: str, pair: Path) -> None:
    data = {each: b64encode((pair / each).read_bytes()).decode() for each in ("tls.crt", "tls.key")}
    metadata = {"name": name, "namespace": NAMESPACE}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}
    installed.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def test_with_a_certificate_of_helms(cluster: Installed) -> None:
    name = f"{NAME}-webhook-self-signed"
    mode = (*WEBHOOK, "--set=webhook.tls.mode=self-signed")
    cluster.release.upgrade(*mode)
    wait_serving(cluster)
    first = secret(cluster, name)
    cluster.release.upgrade(*mode, "--set=logVerbosity=5")
    assert secret(cluster, name)["data"] == first["data"]
    wait_serving(cluster)
    # Renewed: pods that still have the old certificate are trusted until they have the new one.
    cluster.release.upgrade(*mode, "--set=logVerbosity=5", "--set=webhook.tls.selfSigned.renewal=again")
    assert secret(cluster, name)["data"]["tls.crt"] != first["data"]["tls.crt"]

    def is_renewed() -> bool:
        assert MISTAKE in refusal(cluster.cluster.api, claim(cluster.cluster.api, "mistaken", config(speed=1)))
        return list(loads(cluster).values()) == [2, 2]

    wait_until("both pods to have the new certificate", is_renewed, 180, lambda: loads(cluster), every_s=0.5)


def test_with_a_certificate_of_the_users(cluster: Installed) -> None:
    pair = cluster.cluster.folder / "users-pair"
    make_pair(pair, f"{SERVICE}.{NAMESPACE}.svc")
    put_secret(cluster, "mine", pair)
    bundle = b64encode((pair / "tls.crt").read_bytes()).decode()
    mode = (*WEBHOOK, "--set=webhook.tls.mode=secret", "--set=webhook.tls.secret.name=mine")
    cluster.release.upgrade(*mode, f"--set=webhook.tls.secret.caBundle={bundle}")
    wait_serving(cluster)


def test_with_a_certificate_of_cert_managers(cluster: Installed, kinds_of_cert_manager: None) -> None:
    """What cert-manager and its injector do, done here: it is not on this cluster, but its kinds are."""
    kubectl = cluster.cluster.kubectl
    cluster.release.upgrade(*WEBHOOK)
    where = (f"--namespace={NAMESPACE}", "--output=json")
    wanted = json.loads(kubectl("get", "certificate.cert-manager.io", f"{SERVICE}-cert", *where))["spec"]
    assert json.loads(kubectl("get", "issuer.cert-manager.io", wanted["issuerRef"]["name"], *where))
    pair = cluster.cluster.folder / "cert-managers-pair"
    make_pair(pair, *wanted["dnsNames"])
    put_secret(cluster, wanted["secretName"], pair)
    hooks = json.loads(kubectl("get", "validatingwebhookconfiguration", HOOKS, "--output=json"))
    assert hooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/{SERVICE}-cert"
    bundle = b64encode((pair / "tls.crt").read_bytes()).decode()
    change = [{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]
    kubectl("patch", "validatingwebhookconfiguration", HOOKS, "--type=json", f"--patch={json.dumps(change)}")
    wait_serving(cluster)


def test_one_of_two_pods_may_go(cluster: Installed) -> None:
    api, kubectl = cluster.cluster.api, cluster.cluster.kubectl
    cluster.release.upgrade(*WEBHOOK, "--set=webhook.tls.mode=self-signed")
    wait_serving(cluster)
    label = f"--selector={NAME}-component=webhook"
    pods = kubectl("get", "pods", label, f"--namespace={NAMESPACE}", "--output=name").split()
    assert len(pods) == 2
    kubectl("delete", pods[0], f"--namespace={NAMESPACE}", "--wait=false")

    def is_gone() -> bool:
        # Refused for the mistake, never for want of a webhook.
        assert MISTAKE in refusal(api, claim(api, "mistaken", config(speed=1)))
        return pods[0] not in kubectl("get", "pods", label, f"--namespace={NAMESPACE}", "--output=name").split()

    wait_until("the pod to be gone", is_gone, 60, every_s=0.02)


def crd(kind: str, plural: str) -> Object:
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": free}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.cert-manager.io"},
        "spec": {"group": "cert-manager.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def served(installed: Installed, kind: str) -> Callable[[], bool]:
    def is_served() -> bool:
        try:
            installed.cluster.kubectl("get", kind, "--all-namespaces")
        except RuntimeError:
            return False
        return True

    return is_served
