//! The structs of `ResourceClaim.status`, field by field in their order.

use super::Field;
use super::Keep::{self, Always, NonEmpty, Present};
use super::Shape::{self, Boolean, Integer, List, Map, Quantity, Raw, Struct, Text, Time};

pub(super) const fn field(name: &'static str, shape: &'static Shape, keep: Keep) -> Field {
    Field { name, shape, keep }
}

pub(super) static TEXTS: Shape = List(&Text);

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
