//! The structs of the two drivers' checkpoints, field by field in their order.

use super::Keep::{Always, ByRelease, NonEmpty, OrNull, Present};
use super::Shape::{self, Boolean, Checksum, Integer, List, Map, Raw, Struct, Text, Time};
use super::tables::{CLAIM_STATUS, TEXTS, field};

/// The shapes of a checkpoint file and of its two sections.
pub struct Sections {
    pub file: Shape,
    pub v1: Shape,
    pub v2: Shape,
}

/// The common envelope around each driver's prepared devices and its additional entry members.
macro_rules! sections {
    ($name:ident, $devices:ident $(, $more:expr)*) => {
        pub static $name: Sections = Sections {
            file: Struct(&[
                field("checksum", &Checksum, Always),
                field("v1", &$name.v1, Present),
                field("v2", &$name.v2, Present),
            ]),
            v1: Struct(&[field(
                "preparedClaims",
                &Map(&Struct(&[
                    field("status", &CLAIM_STATUS, Always),
                    field("preparedDevices", &$devices, NonEmpty),
                ])),
                NonEmpty,
            )]),
            v2: Struct(&[
                field("checksum", &Checksum, Always),
                field(
                    "preparedClaims",
                    &Map(&Struct(&[
                        field("checkpointState", &Text, Always),
                        field("status", &CLAIM_STATUS, Always),
                        field("preparedDevices", &$devices, NonEmpty),
                        field("name", &Text, NonEmpty),
                        field("namespace", &Text, NonEmpty),
                        $($more,)*
                    ])),
                    NonEmpty,
                ),
                field("nodeBootID", &Text, NonEmpty),
            ]),
        };
    };
}

sections!(GPU, GPU_DEVICES);
sections!(DOMAIN, DOMAIN_DEVICES, field("abortedAt", &Time, Present));

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

static GPU_DEVICE: Shape = Struct(&[
    field(
        "gpu",
        &Struct(&[
            field("info", &Struct(&[field("uuid", &Text, Always)]), OrNull),
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
                OrNull,
            ),
            field("device", &KUBELET_DEVICE, OrNull),
        ]),
        Present,
    ),
]);

static GPU_DEVICES: Shape = List(&Struct(&[
    field("devices", &List(&GPU_DEVICE), Always),
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

static DOMAIN_ROLE: Shape = Struct(&[
    field("info", &Struct(&[field("id", &Integer, Always)]), OrNull),
    field("device", &KUBELET_DEVICE, OrNull),
]);

static DOMAIN_DEVICES: Shape = List(&Struct(&[
    field(
        "devices",
        &List(&Struct(&[
            field("channel", &DOMAIN_ROLE, OrNull),
            field("daemon", &DOMAIN_ROLE, OrNull),
        ])),
        Always,
    ),
    field(
        "configState",
        &Struct(&[
            field("Type", &Text, Always),
            field("ComputeDomain", &Text, Always),
        ]),
        Always,
    ),
]));
