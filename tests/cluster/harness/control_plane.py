"""etcd, API server, scheduler and controller manager, told apart by token, with the rights a real cluster gives."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.harness.api import Api, Object, wait_until
from tests.cluster.harness.children import Child
from tests.cluster.harness.programs import KUBERNETES, KUBERNETES_1_32, Part
from tests.cluster.harness.seclusion import NODE_ADDRESS, SERVICES

API_PORT = 6443
ETCD = "http://127.0.0.1:2379"
PODS = "10.85.0.0/16"
DRIVER_NAMESPACE = "gpu"
"""Where the driver is installed. What its service accounts ask for is in the API server's audit log."""
_AUDIT = f"""apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:{DRIVER_NAMESPACE}"]
- level: None
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A Kubernetes release, and what it takes to have DRA on it."""

    version: str
    part: Part
    gates: str
    dra: str
    """The newest resource.k8s.io version it serves."""


V1_37 = Release("1.37.2", KUBERNETES, "AllBeta=true,DRAExtendedResource=true", "v1")
V1_32 = Release("1.32.2", KUBERNETES_1_32, "AllBeta=true,DynamicResourceAllocation=true", "v1beta1")


@dataclass(slots=True)
class ControlPlane:
    """A control plane whose files are all below `folder`."""

    release: Release
    programs: dict[Part, Path]
    folder: Path
    logs: Path
    nodes: tuple[str, ...]
    children: list[Child] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the API server's."""
        return self.folder / "ca.crt"

    def start(self) -> None:
        """All of the control plane answers."""
        self.folder.mkdir()
        self._write_tokens()
        self._write_certificates()
        key = self.folder / "service-accounts.key"
        self._start_etcd()
        self._start_api_server(key)
        bin_dir = self.programs[self.release.part]
        gates = f"--feature-gates={self.release.gates}"
        for name, user, flags in (
            (
                "kube-controller-manager",
                "controller-manager",
                [
                    "--use-service-account-credentials=true",
                    f"--root-ca-file={self.ca}",
                    f"--service-account-private-key-file={key}",
                    f"--flex-volume-plugin-dir={self.folder / 'volumes'}",
                ],
            ),
            ("kube-scheduler", "scheduler", []),
        ):
            kubeconfig = self.kubeconfig(user)
            common = [f"--kubeconfig={kubeconfig}", f"--authentication-kubeconfig={kubeconfig}"]
            common += [f"--authorization-kubeconfig={kubeconfig}", "--authentication-skip-lookup=true"]
            common += ["--leader-elect=false", "--bind-address=127.0.0.1"]
            self._start(name, [str(bin_dir / name), *common, gates, *flags])

    def stop(self) -> None:
        """Nothing of the control plane runs."""
        for child in reversed(self.children):
            child.stop()
        self.children.clear()

    def api(self, user: str = "admin") -> Api:
        """The API server as `user` sees it."""
        return self.api_with(self.tokens[user])

    def api_with(self, token: str) -> Api:
        """The API server as whoever has `token` sees it."""
        return Api(NODE_ADDRESS, API_PORT, self.ca, token, self.release.dra)

    def audited(self) -> list[Object]:
        """What the driver's service accounts asked for, oldest first: events of the API server's audit log."""
        return [json.loads(line) for line in self._audit_log.read_text().splitlines()]

    @property
    def _audit_log(self) -> Path:
        return self.folder / "audit.log"

    def kubeconfig(self, user: str, token: str | None = None) -> Path:
        """A kubeconfig file for `user`, with the token given or else the user's own."""
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(
            f"""apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster: {{server: "https://{NODE_ADDRESS}:{API_PORT}", certificate-authority: "{self.ca}"}}
users:
  - name: {user}
    user: {{token: "{token or self.tokens[user]}"}}
contexts:
  - name: test
    context: {{cluster: test, user: {user}}}
current-context: test
"""
        )
        path.chmod(0o600)
        return path

    def _write_tokens(self) -> None:
        users = [("admin", "admin", "system:masters")]
        users += [(f"node-{node}", f"system:node:{node}", "system:nodes") for node in self.nodes]
        users += [("scheduler", "system:kube-scheduler", ""), ("kube-proxy", "system:kube-proxy", "")]
        users += [("controller-manager", "system:kube-controller-manager", "")]
        self.tokens = {name: secrets.token_hex(16) for name, _, _ in users}
        lines = [f'{self.tokens[name]},{user},{name},"{groups}"\n' for name, user, groups in users]
        path = self.folder / "tokens.csv"
        path.write_text("".join(lines))
        path.chmod(0o600)

    def _write_certificates(self) -> None:
        """A certificate authority, the API server's certificate signed by it, and the key of service account tokens."""
        names = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc", "DNS:localhost"]
        names += [f"IP:{NODE_ADDRESS}", "IP:127.0.0.1", f"IP:{SERVICES.rpartition('.')[0]}.1"]
        (self.folder / "names").write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n")
        for arguments in (
            "genrsa -out service-accounts.key 2048",
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=test-ca",
            "req -newkey rsa:2048 -nodes -keyout api.key -out api.csr -subj /CN=kube-apiserver",
            "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -days 30 -out api.crt",
        ):
            done = subprocess.run(
                ["openssl", *arguments.split()], cwd=self.folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(f"openssl {arguments}: {done.stderr.strip()}")

    def _start_etcd(self) -> None:
        etcd = self.programs[KUBERNETES] / "etcd"
        command = [str(etcd), "--name=test", f"--data-dir={self.folder / 'etcd'}", "--log-level=warn"]
        command += [f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"]
        peer = "http://127.0.0.1:2380"
        command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        command += [f"--initial-cluster=test={peer}", "--unsafe-no-fsync"]
        child = self._start("etcd", command)

        def is_healthy() -> bool:
            child.must_run()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{ETCD}/health", timeout=1) as answer:
                return b'"true"' in answer.read()
            return False

        wait_until("etcd", is_healthy, 30, child.tail)

    def _start_api_server(self, key: Path) -> None:
        command = [str(self.programs[self.release.part] / "kube-apiserver"), f"--etcd-servers={ETCD}"]
        command += [f"--bind-address={NODE_ADDRESS}", f"--advertise-address={NODE_ADDRESS}"]
        command += [f"--secure-port={API_PORT}", f"--tls-cert-file={self.folder / 'api.crt'}"]
        command += [f"--tls-private-key-file={self.folder / 'api.key'}", f"--cert-dir={self.folder / 'certs'}"]
        command += [f"--service-cluster-ip-range={SERVICES}", "--allow-privileged=true"]
        command += [f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=Node,RBAC"]
        command += ["--enable-admission-plugins=NodeRestriction", "--runtime-config=api/all=true"]
        command += ["--kubelet-preferred-address-types=InternalIP", f"--feature-gates={self.release.gates}"]
        command += ["--service-account-issuer=https://kubernetes.default.svc"]
        command += [f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"]
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(_AUDIT)
        command += [f"--audit-policy-file={policy}", f"--audit-log-path={self._audit_log}"]
        child = self._start("kube-apiserver", command)

        def is_ready() -> bool:
            child.must_run()
            with contextlib.suppress(Exception):
                return self.api().call("GET", "readyz", timeout_s=2) == b"ok"
            return False

        wait_until("the API server", is_ready, 60, child.tail)

    def _start(self, name: str, command: list[str]) -> Child:
        child = Child(name, command, self.logs / f"{name}.log")
        child.start()
        self.children.append(child)
        return child
