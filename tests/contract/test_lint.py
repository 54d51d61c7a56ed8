"""nvdra claim lint: mistakes in a claim are named before it is created, with what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvdra import cli

Json = dict[str, Any]
GPU = "device.attributes['gpu.nvidia.com']"
FLEET = ("--nodes=1xh100x8@DynamicMIG=true", "--nodes=1xgb200x4")


def claim(*selectors: str, device_class: str = "gpu.nvidia.com", **devices: Any) -> Json:
    exactly = {"deviceClassName": device_class, "selectors": [{"cel": {"expression": each}} for each in selectors]}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}], **devices}}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "eval"}, "spec": spec}


def lint(
    capsys: pytest.CaptureFixture[str], folder: Path, *documents: Any, fleet: tuple[str, ...] = FLEET
) -> tuple[int, list[Json]]:
    """Exit status and findings of a file with these documents."""
    path = folder / "claim.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    status = cli.start("nvdra", ["claim", "lint", *fleet, "-o=json", str(path)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert not err
    return status, json.loads(out)["findings"]


@pytest.mark.parametrize(
    "selector",
    [
        f"{GPU}.productName.contains('H100')",
        f"{GPU}.type == 'gpu' && {GPU}.uuid.startsWith('GPU-')",
        f"has({GPU}.noSuchThing) && {GPU}.productName == 'x' || true",
        "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('40Gi')) >= 0",
    ],
)
def test_a_claim_without_mistakes_passes(selector: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, found = lint(capsys, tmp_path, claim(selector))
    assert [one for one in found if one["code"] not in ("attribute.unknown", "devices.none")] == []
    assert status == (1 if "noSuchThing" in selector else 0)


@pytest.mark.parametrize(
    ("selector", "code", "text", "hint"),
    [
        (f"{GPU}.productName = 'x'", "cel.compile", "selector #0: compilation failed", ""),
        (f"{GPU}.productNam == 'x'", "attribute.unknown", "gpu.nvidia.com/productNam", "gpu.nvidia.com/productName"),
        (
            "device.capacity['gpu.nvidia.com'].memorry.compareTo(quantity('1Gi')) > 0",
            "capacity.unknown",
            "gpu.nvidia.com/memorry",
            "gpu.nvidia.com/memory",
        ),
        (
            "device.attributes['gpu.nvidia.co'].type == 'gpu'",
            "attribute.unknown",
            "gpu.nvidia.co/type",
            "gpu.nvidia.com",
        ),
        (f"{GPU}.profile == '1g.10gb'", "cel.unguarded", "no such key: profile", "has("),
        (f"{GPU}.productName", "cel.unguarded", "could not be converted to bool", ""),
        ("device.nosuch == 1", "cel.compile", "undefined field 'nosuch'", ""),
    ],
)
def test_a_mistake_in_a_selector_is_an_error(
    selector: str, code: str, text: str, hint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, found = lint(capsys, tmp_path, claim(selector))
    assert status == 1
    (one,) = [each for each in found if each["level"] == "error"]
    assert one["code"] == code
    assert text in one["text"]
    assert hint in one["hint"]
    assert one["place"].endswith("claim.yaml: ResourceClaim eval, request gpu")


def test_an_attribute_that_some_device_lacks_is_named_with_a_device(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Every partition has a profile, GPUs have none, and the class admits both.
    flags = ["--feature-gates=DynamicMIG=true", "--template=kwok", "--output=json"]
    assert cli.start("nvdra", ["forecast", "h100x8", *flags]) == 0
    dump = json.loads(capsys.readouterr().out)
    dump["items"].append({"kind": "DeviceClass", "metadata": {"name": "any"}, "spec": {}})
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(dump), encoding="utf-8")
    odd = claim(f"{GPU}.profile == '1g.10gb'", device_class="any")
    status, found = lint(capsys, tmp_path, odd, fleet=(f"--from={file}",))
    assert status == 1
    (one,) = found
    assert one["code"] == "cel.unguarded"
    assert "fails on 8 devices, such as gpu.nvidia.com/h100x8/gpu-0: no such key: profile" in one["text"]


def test_a_guard_makes_it_right(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    guarded = f"{GPU}.type == 'mig' && {GPU}.profile == '1g.10gb'"
    status, found = lint(capsys, tmp_path, claim(guarded, device_class="mig.nvidia.com"))
    assert (status, found) == (0, [])


def test_a_claim_that_matches_nothing_is_a_warning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, found = lint(capsys, tmp_path, claim(f"{GPU}.productName == 'NVIDIA T4'"))
    assert status == 0
    assert [(one["level"], one["code"]) for one in found] == [("warning", "devices.none")]


def test_an_expensive_selector_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    numbers = ",".join(map(str, range(110)))
    selector = f"[{numbers}].all(a, [{numbers}].all(b, [{numbers}].exists(c, a + b + c >= 0)))"
    status, found = lint(capsys, tmp_path, claim(selector))
    assert status in (0, 1)
    nested = f"[{numbers}].all(a, [{numbers}].all(b, [{numbers}].all(c, a + b + c >= 0)))"
    status, found = lint(capsys, tmp_path, claim(nested))
    assert status == 1
    assert {one["code"] for one in found if one["level"] == "error"} == {"cel.cost"}


def test_configs_are_checked_as_the_webhook_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": {"strategy": "Nonsense"}}
    config = [{"opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}]
    status, found = lint(capsys, tmp_path, claim(config=config))
    assert status == 1
    assert found[0]["code"] == "claim.config"
    assert "Nonsense" in found[0]["text"]


def test_templates_lists_and_alternatives_are_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    exactly = claim(f"{GPU}.typo == 'x'")["spec"]["devices"]["requests"][0]["exactly"]
    request = {"name": "r", "firstAvailable": [{"name": "first", **exactly}]}
    spec = {"devices": {"requests": [request]}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "t"},
        "spec": {"spec": spec},
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    status, found = lint(capsys, tmp_path, pod, {"apiVersion": "v1", "kind": "List", "items": [template]})
    assert status == 1
    assert found[0]["place"].endswith("ResourceClaimTemplate t, request r/first")


def test_a_constraint_on_an_unknown_attribute_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    constraints = [{"matchAttribute": "resource.kubernetes.io/pcieRot"}]
    status, found = lint(capsys, tmp_path, claim(constraints=constraints))
    assert status == 1
    assert "pcieRoot" in found[0]["hint"]


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"kind": "Pod"}, "claim.none"),
        ("text", "claim.form"),
        ({**claim(), "apiVersion": "resource.k8s.io/v1beta1"}, "claim.version"),
        ({**claim(), "spec": {"devices": {"requests": "x"}}}, "claim.form"),
        ({**claim(), "spec": {"devices": {"requests": [{"name": "g", "exactly": {"count": 1}}]}}}, "class.missing"),
        ({**claim(), "spec": {"devices": {"nosuch": []}}}, "claim.form"),
        (claim(device_class="nosuch"), "class.missing"),
    ],
)
def test_an_object_that_is_no_claim_is_named(
    document: Any, code: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, found = lint(capsys, tmp_path, document, fleet=("--nodes=1xh200x1",))
    assert status == 1
    assert code in {one["code"] for one in found}


@pytest.mark.parametrize(
    ("argv", "status", "text"),
    [
        ((), 2, "give files with claims or templates"),
        (("--nodes=1xh200x1", "/nowhere/claim.yaml"), 3, "/nowhere/claim.yaml"),
        (("--nodes=1xh300", "x"), 3, "no portrait 'h300'"),
        (("--nodes=1xh200x1", "--from=x", "y"), 2, "exclude each other"),
        (("--from=/nowhere/cluster.json", "y"), 3, "/nowhere/cluster.json"),
        (("--nodes=1xh200x1", "--release=1.2", "y"), 3, "no profile for Kubernetes 1.2"),
    ],
)
def test_bad_input_ends_with_one_clear_line(
    argv: tuple[str, ...], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.start("nvdra", ["claim", "lint", *argv]) == status
    _, err = capsys.readouterr()
    assert text in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_yaml_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text("a: [1")
    assert cli.start("nvdra", ["claim", "lint", "--nodes=1xh200x1", str(path)]) == 3
    assert f"{path}: neither YAML nor JSON" in capsys.readouterr().err


def test_the_text_ends_with_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text(yaml.safe_dump(claim(f"{GPU}.productNam == 'x'")))
    assert cli.start("nvdra", ["claim", "lint", *FLEET, str(path)]) == 1
    out = capsys.readouterr().out
    assert "did you mean gpu.nvidia.com/productName?" in out
    assert out.splitlines()[-1] == "1 error, 0 warnings"
