"""Every documented value has an effect, the Go driver's defaults are ours, and an older chart's values render too."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from deploy.helm.describe import values as described
from tests.cluster.chart.effects import Effect
from tests.cluster.chart.every_value import EFFECTS
from tests.cluster.chart.rendering import ALL_PROGRAMS, CHART, GPUS, NAME, Helm, nested
from tests.cluster.chart.upstream_values import UPSTREAM

TEXT = (CHART / "values.yaml").read_text()
REFUSES_ALONE = {"gpuResourcesEnabledOverride", "allowDefaultNamespace"}
"""Their effect is that an install is not refused; see the refusals."""


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.name)
def test_effect(helm: Helm, effect: Effect) -> None:
    without = helm.render({**GPUS, **effect.also}, programs=ALL_PROGRAMS)
    rendered = helm.render({**GPUS, **effect.also, effect.name: effect.value}, programs=ALL_PROGRAMS)
    assert effect.seen(rendered) == effect.wanted
    assert effect.seen(without) != effect.wanted, "so without the value too"


def test_every_documented_value_has_its_effect_shown() -> None:
    documented = {value.name for value in described(TEXT) if not value.is_group}
    assert documented - {effect.name for effect in EFFECTS} == REFUSES_ALONE
    assert {effect.name for effect in EFFECTS} <= documented


def test_further_namespaces_get_the_roles(helm: Helm) -> None:
    variable = [{"name": "ADDITIONAL_NAMESPACES", "value": "one, two,one,gpu,"}]
    rendered = helm.render(GPUS | {"controller.containers.computeDomain.env": variable}, programs=ALL_PROGRAMS)
    for kind, name in (
        ("Role", f"{NAME}-role-controller"),
        ("Role", f"{NAME}-role-kubeletplugin"),
        ("RoleBinding", f"{NAME}-role-binding-controller"),
        ("RoleBinding", f"{NAME}-role-binding-kubeletplugin"),
        ("ServiceAccount", "compute-domain-daemon-service-account"),
    ):
        found = [
            o["metadata"]["namespace"] for o in rendered.objects if (o["kind"], o["metadata"]["name"]) == (kind, name)
        ]
        assert sorted(found) == ["gpu", "one", "two"], kind
    subjects = rendered.all("ClusterRoleBinding")["compute-domain-daemon-role-binding"]["subjects"]
    assert sorted(each["namespace"] for each in subjects) == ["gpu", "one", "two"]


@pytest.mark.parametrize("off", ["off", False, ""])
def test_the_guard_is_off_also_as_yaml_reads_a_bare_off(helm: Helm, off: str | bool) -> None:
    rendered = helm.render(GPUS | {"coexistenceGuard": off})
    assert "COEXISTENCE_GUARD" not in rendered.env()
    assert "pod-resources" not in {volume["name"] for volume in rendered.pod["volumes"]}


@pytest.mark.parametrize(
    ("release", "fullname"),
    [("dra", f"dra-{NAME}"), (NAME, NAME), (f"my-{NAME}-2", f"my-{NAME}-2")],
)
def test_names_of_a_release(helm: Helm, release: str, fullname: str) -> None:
    rendered = helm.render(release=release)
    assert rendered.pod["serviceAccountName"] == f"{fullname}-service-account-kubeletplugin"
    assert rendered.one("DaemonSet")["metadata"]["name"] == f"{NAME}-kubelet-plugin"


BETTER = {
    "kubeletPlugin.updateStrategy",
    "kubeletPlugin.containers.init.securityContext",
    "kubeletPlugin.containers.init.resources",
    "kubeletPlugin.containers.gpus.securityContext",
    "kubeletPlugin.containers.gpus.resources",
    "webhook.strategy",
}
"""Where our default is another one; the README says why."""


def test_keys_and_defaults_are_the_go_drivers() -> None:
    ours = {value.name: value.default for value in described(TEXT) if not value.is_group}
    assert UPSTREAM.keys() <= ours.keys()
    assert {name for name, default in UPSTREAM.items() if ours[name] != default} == BETTER


@pytest.mark.parametrize("programs", [ALL_PROGRAMS[:1], ALL_PROGRAMS])
def test_the_go_drivers_values_install_unchanged(helm: Helm, programs: tuple[str, ...]) -> None:
    rendered = helm.render({**UPSTREAM, **GPUS, "image.repository": "mine/image"}, programs=programs)
    strategy = rendered.one("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    assert rendered.container()["image"].startswith("mine/image:")


@pytest.mark.parametrize("programs", [ALL_PROGRAMS[:1], ALL_PROGRAMS])
def test_values_of_an_older_release_render(helm: Helm, programs: tuple[str, ...], tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` has the old chart's values and none of ours, not even defaults."""
    older = {name: value for name, value in UPSTREAM.items() if not re.search(r"imex|metrics|networkPolicy", name)}
    older |= GPUS | {"image.tag": "other", "webhook.enabled": "webhook" in programs}
    chart = tmp_path / "chart"
    shutil.copytree(helm.with_programs(programs), chart)
    (chart / "values.yaml").write_text(yaml.safe_dump(nested(older)))
    rendered = helm.render({}, chart=chart)
    assert rendered.container()["image"].endswith(":other")
    if len(programs) > 1:
        assert rendered.env("compute-domains")["IMEX_MODE"] == "driverManaged"


def test_a_subchart_renders(helm: Helm, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    shutil.copytree(CHART, parent / "charts" / NAME)
    (parent / "Chart.yaml").write_text("apiVersion: v2\nname: parent\nversion: 1.0.0\n")
    rendered = helm.render({f"{NAME}.gpuResourcesEnabledOverride": True, "global.mine": 1}, chart=parent)
    assert rendered.one("DaemonSet")["metadata"]["name"] == f"{NAME}-kubelet-plugin"


def test_lint(helm: Helm) -> None:
    text = helm.run("lint", str(CHART), "--namespace", "gpu", "--strict", "--set", "gpuResourcesEnabledOverride=true")
    assert "[WARNING]" not in text
    assert "[ERROR]" not in text
