"""Claim templates in older versions of resource.k8s.io."""

from __future__ import annotations

from dataclasses import replace

from nvdra.controller.settings import CRDS
from nvdra.ports import Resource
from nvdra.testing.kube import FakeKube
from nvdra.testing.objects import Kind
from tests.contract.domain_world import TEMPLATES, World, crds, install


async def test_templates_are_written_in_the_version_that_the_server_has() -> None:
    kube = FakeKube(versions=["v1beta1"], kinds=[Kind(CRDS.group, CRDS.plural, "CustomResourceDefinition", False)])
    await install(kube, crds())
    world = World(kube)
    await world.set_up()
    resource: Resource = replace(TEMPLATES, version="v1beta1")
    async with world.controller():
        await world.domain()
        await world.wait(resource, lambda found: len(found) == 2)
        made = await world.get(resource, "channel", world.user)
    assert made["apiVersion"] == "resource.k8s.io/v1beta1"
    (request,) = made["spec"]["spec"]["devices"]["requests"]
    assert request == {"name": "channel", "deviceClassName": "compute-domain-default-channel.nvidia.com"}
