# ruff: noqa: E501
"""Random clusters from seeds: few names and values, so that rules meet."""

from __future__ import annotations

import random
from typing import Any

from .expressions import selector
from .processes import Json

DRIVERS = ("a.example", "b.example")
FEATURES = (
    "AdminAccess", "CompatibilityGroups", "ConsumableCapacity", "DeviceBindingAndStatus", "DeviceTaints", "FractionalCapacityRange",
    "ListTypeAttributes", "PartitionableDevices", "PrioritizedList",
)  # fmt: skip
_ZONES = ("east", "west")


class Worlds:
    """Makes one allocation case."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.groups_random = random.Random(f"groups of {seed}")
        self.seed = seed

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def case(self) -> Json:
        """Returns the case of this seed."""
        rng = self.random
        default = self.chance(0.6)
        on = {name: True if default else self.chance(0.9) for name in FEATURES}
        on["ListTypeAttributes"] = self.chance(0.2)
        on["FractionalCapacityRange"] = self.chance(0.3)
        on["CompatibilityGroups"] = random.Random(f"groups {self.seed}").random() < 0.15
        beyond = (
            "CompatibilityGroups",
            "ConsumableCapacity",
            "DeviceBindingAndStatus",
            "FractionalCapacityRange",
            "ListTypeAttributes",
        )
        if self.chance(0.1):
            on.update(dict.fromkeys(beyond, False))
        # The stable variant takes pools in random order: it gets one pool.
        stable = not any(on[name] for name in beyond)
        self.calm = self.chance(0.6)
        self.on = on
        self.nodes = [f"n{i}" for i in range(1, rng.choice((1, 1, 2, 3)) + 1)]
        slices: list[Json] = []
        for driver in DRIVERS[:1] if stable else DRIVERS:
            for pool in ("p1",) if stable else ("p1", "p2"):
                if stable or self.chance(0.6):
                    slices += self.pool(driver, pool)
        rng.shuffle(slices)
        claims = [self.claim(i) for i in range(rng.choice((1, 1, 1, 2, 3)))]
        return {
            "id": f"world-{self.seed}",
            "kind": "allocate",
            "features": on,
            "objects": {
                "nodes": [self.node(name) for name in self.nodes],
                "resourceSlices": slices,
                "deviceClasses": self.classes(),
                "resourceClaims": claims,
            },
            "allocated": self.allocated(slices),
            "claims": [c["metadata"]["name"] for c in claims],
            "nodes": self.nodes,
            "timeoutMs": 100,
        }

    def node(self, name: str) -> Json:
        labels = {"kubernetes.io/hostname": name, "zone": self.random.choice(_ZONES)}
        if self.chance(0.5):
            labels["gpus"] = self.random.choice(("1", "8", "x"))
        return {"metadata": {"name": name, "labels": labels}}

    def pool(self, driver: str, pool: str) -> list[Json]:
        rng = self.random
        self.sets = [f"c{i}" for i in range(rng.choice((0, 1, 1, 2)))] if self.chance(0.6) else []
        number = rng.choice((1, 1, 1, 2, 3))
        self.serial = 0
        home = self.selection()
        per_device = self.chance(0.15)
        slices = []
        for index in range(number):
            spec: Json = {"driver": driver, "pool": {"name": pool, "generation": 1, "resourceSliceCount": number}}
            if per_device:
                spec["perDeviceNodeSelection"] = True
            else:
                spec.update(home if self.chance(0.8) else self.selection())
            spec["devices"] = [self.device(per_device) for _ in range(rng.choice((0, 1, 2, 2, 3, 4)))]
            name = f"{rng.choice('xyz')}{index}-{driver}-{pool}"
            slices.append({"metadata": {"name": name}, "spec": spec})
        if self.sets:
            both = {name: {"value": str(rng.choice((2, 4, 8)))} for name in ("k1", "k2")}
            counters = [
                {"name": name, "counters": both if self.chance(0.97) else self.counters((2, 4))} for name in self.sets
            ]
            spec = {"driver": driver, "pool": {"name": pool, "generation": 1, "resourceSliceCount": number + 1}}
            spec.update({"allNodes": True} if per_device or self.chance(0.3) else home)
            slices.append({"metadata": {"name": f"w-{driver}-{pool}"}, "spec": {**spec, "sharedCounters": counters}})
            for one in slices:
                one["spec"]["pool"]["resourceSliceCount"] = number + 1
        if self.chance(0.08):
            rng.choice(slices)["spec"]["pool"]["resourceSliceCount"] += rng.choice((-1, 1))
        if self.chance(0.08):
            rng.choice(slices)["spec"]["pool"]["generation"] = 2
        if self.chance(0.05):
            slices.pop()
        return slices

    def selection(self) -> Json:
        mixed = ("node", "node", "all", "all", "selector", "selector", "none" if self.chance(0.2) else "all")
        kind = self.random.choice(mixed if self.chance(0.6) else ("node",))
        if kind == "node":
            return {"nodeName": self.random.choice(self.nodes)}
        if kind == "all":
            return {"allNodes": True}
        if kind == "none":
            return {}
        return {"nodeSelector": self.node_selector()}

    def node_selector(self) -> Json:
        rng = self.random
        requirements: list[Json] = [
            {"key": "zone", "operator": "In", "values": [rng.choice(_ZONES)]},
            {"key": "zone", "operator": "NotIn", "values": [rng.choice(_ZONES)]},
            {"key": "gpus", "operator": rng.choice(("Exists", "DoesNotExist"))},
            {"key": "gpus", "operator": rng.choice(("Gt", "Lt")), "values": [rng.choice(("1", "4"))]},
        ]
        term: Json = {"matchExpressions": rng.sample(requirements, rng.choice((1, 1, 2)))}
        if self.chance(0.2):
            term["matchFields"] = [{"key": "metadata.name", "operator": "In", "values": [rng.choice(self.nodes)]}]
        terms = [term]
        if self.chance(0.05):
            terms.append({"matchExpressions": [{"key": "zone", "operator": "Exists"}]})
        if self.chance(0.03):
            term["matchExpressions"][0]["operator"] = "Around"
        return {"nodeSelectorTerms": terms}

    def counters(self, values: tuple[int, ...]) -> Json:
        return {name: {"value": str(self.random.choice(values))} for name in ("k1", "k2")[: self.random.choice((1, 2))]}

    def device(self, per_device: bool) -> Json:
        rng = self.random
        self.serial += 1
        name = f"dev{self.serial if not self.chance(0.02) else 1}"
        device: Json = {"name": name}
        attributes: Json = {}
        for key, value in (
            ("x", {"int": rng.choice((1, 2, 3))}),
            ("s", {"string": rng.choice(("one", "two"))}),
            ("flag", {"bool": self.chance(0.5)}),
            ("v", {"version": rng.choice(("1.0.0", "1.2.0", "1.0.0+build", "2.0.0-rc.1"))}),
            ("other.example/root", {"string": rng.choice(("r1", "r2"))}),
            ("a.example/x", {"int": rng.choice((1, 2))}),
            ("l", self.listed()),
        ):
            probability = (
                0.1
                if key in ("a.example/x",)
                else 0.7
                if key != "l"
                else 0.6
                if self.on["ListTypeAttributes"]
                else 0.05
            )
            if self.chance(probability):
                attributes[key] = value
        if "a.example/x" in attributes:
            attributes.pop("x", None)
        if self.chance(0.01):
            attributes["bad"] = rng.choice(({"version": "1.2"}, {}))
        if attributes:
            device["attributes"] = attributes
        if self.chance(0.5):
            device["capacity"] = {
                key: self.capacity() for key in rng.sample(("mem", "cores", "a.example/bw"), rng.choice((1, 2)))
            }
        if self.chance(0.35):
            device["allowMultipleAllocations"] = self.chance(0.85)
        if self.sets and self.chance(0.75):
            device["consumesCounters"] = [
                {"counterSet": name, "counters": self.counters((1, 2, 4))}
                for name in rng.sample(self.sets, rng.choice((1, len(self.sets))))
            ]
            self.groups(device["consumesCounters"])
            if self.chance(0.02):
                device["consumesCounters"][0]["counterSet"] = "missing"
        if per_device:
            device.update(self.selection())
        if self.chance(0.1 if self.calm else 0.25):
            device["taints"] = [self.taint() for _ in range(rng.choice((1, 1, 2)))]
        if self.chance(0.1):
            device["bindingConditions"] = ["ready"]
            if self.chance(0.5):
                device["bindingFailureConditions"] = ["failed"]
        if self.chance(0.05):
            device["bindsToNode"] = True
        return device

    def groups(self, consumed: list[Json]) -> None:
        """Adds compatibility groups to consumptions, often where the gate is on."""
        rng = self.groups_random
        for one in consumed:
            if rng.random() < (0.6 if self.on["CompatibilityGroups"] else 0.005):
                one["compatibilityGroups"] = rng.sample(("g1", "g2", "g3"), rng.choice((1, 2)))

    def listed(self) -> Json:
        rng = self.random
        kind = rng.choice(("ints", "strings", "versions", "bools"))
        pools: dict[str, tuple[Any, ...]] = {
            "ints": (1, 2, 3), "strings": ("one", "two", "three"), "versions": ("1.0.0", "1.2.0"), "bools": (True, False),
        }  # fmt: skip
        return {kind: [rng.choice(pools[kind]) for _ in range(rng.choice((1, 1, 2)))]}

    def taint(self) -> Json:
        rng = self.random
        taint = {"key": rng.choice(("k1", "k2")), "effect": rng.choice(("NoSchedule", "NoExecute", "None", "Other"))}
        if self.chance(0.5):
            taint["value"] = rng.choice(("v1", "v2"))
        return taint

    def capacity(self) -> Json:
        rng = self.random
        capacity: Json = {"value": rng.choice(("4", "8", "10", "1Gi", "8Gi", "2500m", "0.5Gi"))}
        if self.chance(0.5):
            policy: Json = {}
            if self.chance(0.7):
                policy["default"] = rng.choice(("1", "2", "3", "1Gi", "500m"))
            kind = rng.choice(("range", "values", "none"))
            if kind == "range":
                policy["validRange"] = {"min": rng.choice(("1", "2", "0", "500m", "256Mi"))}
                if self.chance(0.5):
                    policy["validRange"]["max"] = rng.choice(("4", "8", "1Gi"))
                if self.chance(0.6):
                    policy["validRange"]["step"] = rng.choice(("1", "2", "3", "500m", "256Mi"))
            elif kind == "values":
                policy["validValues"] = rng.choice((["1", "2", "4"], ["2", "8"], ["1Gi"]))
            capacity["requestPolicy"] = policy
        return capacity

    def classes(self) -> list[Json]:
        rng = self.random
        classes: list[Json] = [
            {"metadata": {"name": "any"}, "spec": {}},
            {"metadata": {"name": "a"}, "spec": {"selectors": [{"cel": {"expression": 'device.driver == "a.example"'}}]}},
            {"metadata": {"name": "picky"}, "spec": {"selectors": [{"cel": {"expression": selector(rng)}} for _ in range(rng.choice((1, 2)))]}},
        ]  # fmt: skip
        for one in classes:
            if self.chance(0.3):
                one["spec"]["config"] = [
                    {"opaque": {"driver": d, "parameters": {"k": d}}} for d in DRIVERS[: rng.choice((1, 2))]
                ]
        return classes

    def fields(self, alternative: bool) -> Json:
        rng = self.random
        fields: Json = {"deviceClassName": rng.choice(("any", "any", "any", "a", "any" if self.calm else "picky"))}
        if self.chance(0.01):
            fields["deviceClassName"] = "missing"
        if self.chance(0.25 if self.calm else 0.5):
            fields["selectors"] = [{"cel": {"expression": selector(rng)}} for _ in range(rng.choice((1, 1, 2)))]
        if self.chance(0.1 if self.calm else 0.2):
            fields["allocationMode"] = "All"
        else:
            fields["allocationMode"] = "ExactCount"
            many = (1, 1, 1, 1, 2) if self.calm else (1, 1, 1, 2, 2, 3, 33 if self.chance(0.05) else 4)
            fields["count"] = rng.choice(many)
        if not alternative and self.chance(0.1):
            fields["adminAccess"] = self.chance(0.8)
        if self.chance(0.25):
            fields["tolerations"] = [self.toleration() for _ in range(rng.choice((1, 2)))]
        if self.chance(0.2):
            names = rng.sample(("mem", "cores", "a.example/bw"), rng.choice((1, 1, 2)))
            fields["capacity"] = {
                "requests": {n: rng.choice(("1", "2", "3", "5", "1Gi", "1500m", "700Mi")) for n in names}
            }
        return fields

    def toleration(self) -> Json:
        rng = self.random
        toleration: Json = {"operator": rng.choice(("Exists", "Exists", "Equal"))}
        if self.chance(0.6):
            toleration["key"] = rng.choice(("k1", "k2"))
        if toleration["operator"] == "Equal" and self.chance(0.7):
            toleration["value"] = rng.choice(("v1", "v2"))
        if self.chance(0.3):
            toleration["effect"] = rng.choice(("NoSchedule", "NoExecute"))
        return toleration

    def claim(self, index: int) -> Json:
        rng = self.random
        requests: list[Json] = []
        names: list[str] = []
        for number in range(rng.choice((1, 1, 2, 3))):
            name = f"r{number}"
            if self.chance(0.25):
                subs = [{"name": f"s{i}", **self.fields(True)} for i in range(rng.choice((1, 2, 3)))]
                requests.append({"name": name, "firstAvailable": subs})
                names += [name, *(f"{name}/{s['name']}" for s in subs)]
            else:
                requests.append({"name": name, "exactly": self.fields(False)})
                names.append(name)
        devices: Json = {"requests": requests}
        constraints: list[Json] = []
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
            attribute = rng.choice(
                (
                    "a.example/x",
                    "a.example/s",
                    "b.example/x",
                    "other.example/root",
                    "a.example/flag",
                    "a.example/v",
                    "a.example/l",
                )
            )
            constraint: Json = {"matchAttribute" if self.chance(0.6) else "distinctAttribute": attribute}
            if self.chance(0.5):
                constraint["requests"] = rng.sample(names, rng.choice((1, min(2, len(names)))))
            constraints.append(constraint)
        if self.chance(0.01):
            constraints.append({})
        if constraints:
            devices["constraints"] = constraints
        if self.chance(0.3):
            config = []
            for _ in range(rng.choice((1, 2))):
                entry: Json = {"opaque": {"driver": rng.choice(DRIVERS), "parameters": {"n": rng.choice((1, 2))}}}
                if self.chance(0.6):
                    entry["requests"] = rng.sample(names, rng.choice((1, min(2, len(names)))))
                config.append(entry)
            devices["config"] = config
        return {"metadata": {"name": f"claim-{index}", "namespace": "ns"}, "spec": {"devices": devices}}

    def allocated(self, slices: list[Json]) -> Json:
        rng = self.random
        state: dict[str, list[Any]] = {"devices": [], "shares": [], "capacity": []}
        for one in slices:
            for device in one["spec"].get("devices", ()):
                identity = [one["spec"]["driver"], one["spec"]["pool"]["name"], device["name"]]
                if not self.chance(0.1 if self.calm else 0.25):
                    continue
                if device.get("allowMultipleAllocations") and self.on["ConsumableCapacity"] and self.chance(0.9):
                    state["shares"].append([*identity, "share"])
                    if device.get("capacity") and self.chance(0.8):
                        consumed = {name: rng.choice(("1", "2", "1Gi")) for name in device["capacity"]}
                        state["capacity"].append({"id": identity, "consumed": consumed})
                else:
                    state["devices"].append(identity)
        return state
