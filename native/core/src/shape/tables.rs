//! The structs of `ResourceClaim.status` and of the checkpoint, field by field in their order.

use super::Field;
use super::Keep::{self, Always, ByRelease, NonEmpty, OrNull, Present};
use super::Shape::{
    self, Boolean, Checksum, Integer, List, Map, Quantity, Raw, Struct, Text, Time,
};

const fn field(name: &'static str, shape: &'static Shape, keep: Keep) -> Field {
    Field { name, shape, keep }
}

static TEXTS: Shape = List(&Text);

static TOLERATION: Shape = Struct(&[
    field("key", &Text, NonEmpty),
    field("operator", &Text, NonEmpty),
    field("value", &Text, NonEmpty),
    field("effect", &Text, NonEmpty),
    field("tolerationSeconds", &Integer, Present),
]);

static RESULT: Shape = Struct(&[
    field("request", &Text, Always),
    field("driver", &Text, Always),
    field("pool", &Text, Always),
    field("device", &Text, Always),
    field("adminAccess", &Boolean, Present),
    field("tolerations", &List(&TOLERATION), NonEmpty),
    field("bindingConditions", &TEXTS, NonEmpty),
    field("bindingFailureConditions", &TEXTS, NonEmpty),
    field("shareID", &Text, Present),
    field("consumedCapacity", &Map(&Quantity), NonEmpty),
]);

static CONFIG: Shape = Struct(&[
    field("source", &Text, Always),
    field("requests", &TEXTS, NonEmpty),
    field(
        "opaque",
        &Struct(&[
            field("driver", &Text, Always),
            field("parameters", &Raw, Always),
        ]),
        Present,
    ),
]);

static REQUIREMENT: Shape = Struct(&[
    field("key", &Text, Always),
    field("operator", &Text, Always),
    field("values", &TEXTS, NonEmpty),
]);

static NODE_SELECTOR: Shape = Struct(&[field(
    "nodeSelectorTerms",
    &List(&Struct(&[
        field("matchExpressions", &List(&REQUIREMENT), NonEmpty),
        field("matchFields", &List(&REQUIREMENT), NonEmpty),
    ])),
    Always,
)]);

static DEVICE_STATUS: Shape = Struct(&[
    field("driver", &Text, Always),
    field("pool", &Text, Always),
    field("device", &Text, Always),
    field("shareID", &Text, Present),
    field(
        "conditions",
        &List(&Struct(&[
            field("type", &Text, Always),
            field("status", &Text, Always),
            field("observedGeneration", &Integer, NonEmpty),
            field("lastTransitionTime", &Time, Always),
            field("reason", &Text, Always),
            field("message", &Text, Always),
        ])),
        Always,
    ),
    field("data", &Raw, Present),
    field(
        "networkData",
        &Struct(&[
            field("interfaceName", &Text, NonEmpty),
            field("ips", &TEXTS, NonEmpty),
            field("hardwareAddress", &Text, NonEmpty),
        ]),
        Present,
    ),
]);

/// `ResourceClaim.status` of resource.k8s.io/v1; the beta versions have the same one.
pub static CLAIM_STATUS: Shape = Struct(&[
    field(
        "allocation",
        &Struct(&[
            field(
                "devices",
                &Struct(&[
                    field("results", &List(&RESULT), NonEmpty),
                    field("config", &List(&CONFIG), NonEmpty),
                ]),
                Always,
            ),
            field("nodeSelector", &NODE_SELECTOR, Present),
            field("allocationTimestamp", &Time, Present),
        ]),
        Present,
    ),
    field(
        "reservedFor",
        &List(&Struct(&[
            field("apiGroup", &Text, NonEmpty),
            field("resource", &Text, Always),
            field("name", &Text, Always),
            field("uid", &Text, Always),
        ])),
        NonEmpty,
    ),
    field("devices", &List(&DEVICE_STATUS), NonEmpty),
]);

static KUBELET_DEVICE: Shape = Struct(&[
    field("Requests", &TEXTS, Always),
    field("PoolName", &Text, Always),
    field("DeviceName", &Text, Always),
    field("CDIDeviceIDs", &TEXTS, Always),
    field("ShareID", &Text, Present),
    field(
        "Metadata",
        &Struct(&[
            field("Attributes", &Map(&Raw), Always),
            field("NetworkData", &Raw, Always),
        ]),
        Present,
    ),
]);

static PREPARED_DEVICE: Shape = Struct(&[
    field(
        "gpu",
        &Struct(&[
            field("info", &Struct(&[field("uuid", &Text, Always)]), Always),
            field("device", &KUBELET_DEVICE, OrNull),
        ]),
        OrNull,
    ),
    field(
        "mig",
        &Struct(&[
            // Releases before v25.12 keep the MIG device under `info`, later ones under `concrete`.
            field("info", &Raw, Present),
            field(
                "concrete",
                &Struct(&[
                    field("parentMinor", &Integer, Always),
                    field("giId", &Integer, Always),
                    field("ciId", &Integer, Always),
                    field("migUUID", &Text, Always),
                    field("parentUUID", &Text, Always),
                    field("parentPCIBusID", &Text, NonEmpty),
                ]),
                Present,
            ),
            field("device", &KUBELET_DEVICE, OrNull),
        ]),
        OrNull,
    ),
    field(
        "vfio",
        &Struct(&[
            field(
                "info",
                &Struct(&[
                    field("uuid", &Text, Always),
                    field("pciBusID", &Text, NonEmpty),
                ]),
                Always,
            ),
            field("device", &KUBELET_DEVICE, OrNull),
        ]),
        Present,
    ),
]);

static PREPARED_DEVICES: Shape = List(&Struct(&[
    field("devices", &List(&PREPARED_DEVICE), Always),
    field(
        "configState",
        &Struct(&[
            field("mpsControlDaemonID", &Text, ByRelease),
            field("mpsApplied", &Boolean, Present),
            field("timeSliceApplied", &Boolean, Present),
        ]),
        Always,
    ),
]));

pub static V1: Shape = Struct(&[field(
    "preparedClaims",
    &Map(&Struct(&[
        field("status", &CLAIM_STATUS, Always),
        field("preparedDevices", &PREPARED_DEVICES, NonEmpty),
    ])),
    NonEmpty,
)]);

pub static V2: Shape = Struct(&[
    field("checksum", &Checksum, Always),
    field(
        "preparedClaims",
        &Map(&Struct(&[
            field("checkpointState", &Text, Always),
            field("status", &CLAIM_STATUS, Always),
            field("preparedDevices", &PREPARED_DEVICES, NonEmpty),
            field("name", &Text, NonEmpty),
            field("namespace", &Text, NonEmpty),
        ])),
        NonEmpty,
    ),
    field("nodeBootID", &Text, NonEmpty),
]);

pub static CHECKPOINT: Shape = Struct(&[
    field("checksum", &Checksum, Always),
    field("v1", &V1, Present),
    field("v2", &V2, Present),
]);
