"""A cluster to look around in: stays up until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal

from tests.cluster.harness.cluster import cluster
from tests.cluster.harness.control_plane import V1_32, V1_37
from tests.cluster.harness.programs import KUBERNETES
from tests.cluster.harness.seclusion import inside


def main() -> None:
    """The cluster is up until someone ends it."""
    releases = {release.version.rpartition(".")[0]: release for release in (V1_37, V1_32)}
    parser = argparse.ArgumentParser(prog="tests/cluster/up", description="Keeps a cluster up until Ctrl-C.")
    parser.add_argument("--kubernetes", choices=sorted(releases), default="1.37", help="release (default 1.37)")
    parser.add_argument("--driver", action="store_true", help="with the plugin on it, and eight mock H100")
    chosen = parser.parse_args()
    release = releases[chosen.kubernetes]
    with cluster(release, inside()) as up, contextlib.ExitStack() as stack:
        if chosen.driver:
            # Only here: a cluster without the driver needs neither of the two.
            from tests.cluster.harness.driver import running

            stack.enter_context(running(up))
        outside = (inside() / "pid").read_text()
        kubectl = up.folder / "kubectl"
        program = up.programs[KUBERNETES] / "kubectl"
        config = up.plane.kubeconfig("admin")
        kubectl.write_text(f'#!/bin/sh\nexec nsenter -t {outside} -m -n -p -- {program} --kubeconfig={config} "$@"\n')
        kubectl.chmod(0o755)
        print(f"Kubernetes {release.version} is up, node {up.node.name}, logs in {up.folder / 'logs'}")
        print(f"  look:         {kubectl} get nodes,pods -A")
        print(f"  go inside:    nsenter -t {outside} -m -n -p")
        print(f"  KUBECONFIG={config}   (valid inside)")
        print("Ctrl-C takes it down.", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
