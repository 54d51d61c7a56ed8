//! Go structs as tables, and the text Go's encoder makes of a JSON value read into one of them.
//!
//! Reading into a struct and writing it again drops unknown keys, puts the rest into the struct's order, fills in zero
//! values and leaves out what `omitempty` leaves out. Claims are projected onto the checkpoint's fields this way, and
//! old checkpoints are written again to check them.

use crate::error::{Error, Kind, Result};
use crate::json::{Node, Value, write_compact, write_text};
use crate::{quantity, time};

/// The type of a Go field, as far as its JSON is concerned.
pub enum Shape {
    Text,
    Integer,
    Boolean,
    /// JSON carried as it is, but compact.
    Raw,
    /// RFC 3339 with seconds in UTC; the zero time is null.
    Time,
    /// A resource quantity in canonical form.
    Quantity,
    /// An integer, or 0 while the checksum itself is taken.
    Checksum,
    Struct(&'static [Field]),
    List(&'static Shape),
    Map(&'static Shape),
}

/// When a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Always; an absent value is the type's zero value.
    Always,
    /// Always; an absent value is null.
    OrNull,
    /// If the value is there, be it zero.
    Present,
    /// If the value is there and not zero.
    NonEmpty,
    /// `Always` or `NonEmpty`, as the writer's release had it.
    ByRelease,
}

pub struct Field {
    pub name: &'static str,
    pub shape: &'static Shape,
    pub keep: Keep,
}

const fn field(name: &'static str, shape: &'static Shape, keep: Keep) -> Field {
    Field { name, shape, keep }
}

/// How a struct is written: which release's habits, and whether checksums count as zero.
#[derive(Clone, Copy)]
pub struct Style {
    pub mps_id_always: bool,
    pub zero_checksums: bool,
}

impl Style {
    pub const RELEASED: Style = Style {
        mps_id_always: true,
        zero_checksums: false,
    };
}

use Keep::{Always, ByRelease, NonEmpty, OrNull, Present};
use Shape::{Boolean, Checksum, Integer, List, Map, Quantity, Raw, Struct, Text, Time};

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

/// The text Go makes of the value read as `shape`. The error names the field that does not fit, under `root`.
pub fn marshal(
    node: &Node<'_>,
    source: &str,
    shape: &Shape,
    style: Style,
    root: &str,
) -> Result<String> {
    let mut out = String::with_capacity(node.end - node.start);
    let writer = Writer { source, style };
    match writer.write(&mut out, Some(node), shape) {
        Ok(()) => Ok(out),
        Err(misfit) => Err(Error::new(
            Kind::Malformed,
            format!("{root}{}: {}", misfit.path, misfit.text),
        )),
    }
}

/// A value that does not fit its field. The path grows from the inside out.
struct Misfit {
    path: String,
    text: String,
}

impl Misfit {
    fn wanted(noun: &str, node: &Node<'_>) -> Self {
        Misfit {
            path: String::new(),
            text: format!("{noun} was expected, found {}", node.noun()),
        }
    }

    fn under(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }
}

struct Writer<'s> {
    source: &'s str,
    style: Style,
}

impl Writer<'_> {
    fn write(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        shape: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let node = node.filter(|node| node.value != Value::Null);
        match shape {
            Text => match node.map(|node| (node, node.text())) {
                None => out.push_str("\"\""),
                Some((_, Some(text))) => write_text(out, text),
                Some((node, None)) => return Err(Misfit::wanted("a string", node)),
            },
            Checksum if self.style.zero_checksums => out.push('0'),
            Integer | Checksum => match node.map(|node| (node, &node.value)) {
                None => out.push('0'),
                Some((_, Value::Number(token))) if is_integer(token) => {
                    out.push_str(if *token == "-0" { "0" } else { token });
                }
                Some((node, _)) => return Err(Misfit::wanted("an integer", node)),
            },
            Boolean => match node.map(|node| (node, &node.value)) {
                None => out.push_str("false"),
                Some((_, Value::Boolean(is_true))) => {
                    out.push_str(if *is_true { "true" } else { "false" })
                }
                Some((node, _)) => return Err(Misfit::wanted("a boolean", node)),
            },
            Raw => match node {
                None => out.push_str("null"),
                Some(node) => write_compact(out, node.source(self.source)),
            },
            Time => self.write_time(out, node)?,
            Quantity => self.write_quantity(out, node)?,
            Struct(fields) => self.write_struct(out, node, fields)?,
            List(item) => self.write_list(out, node, item)?,
            Map(item) => self.write_map(out, node, item)?,
        }
        Ok(())
    }

    fn write_time(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        let text = node.text().ok_or_else(|| Misfit::wanted("a time", node))?;
        match time::to_utc_seconds(text) {
            Some(moment) if moment == "0001-01-01T00:00:00Z" => out.push_str("null"),
            Some(moment) => write_text(out, &moment),
            None => {
                return Err(Misfit {
                    path: String::new(),
                    text: format!("{text:?} is no RFC 3339 time"),
                });
            }
        }
        Ok(())
    }

    fn write_quantity(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
    ) -> std::result::Result<(), Misfit> {
        let text = match node.map(|node| (node, &node.value)) {
            None => "0",
            Some((_, Value::Text(text))) => text,
            Some((_, Value::Number(token))) => token,
            Some((node, _)) => return Err(Misfit::wanted("a quantity", node)),
        };
        match quantity::canonical(text.trim()) {
            Some(canonical) => write_text(out, &canonical),
            None => {
                return Err(Misfit {
                    path: String::new(),
                    text: format!("{text:?} is no quantity"),
                });
            }
        }
        Ok(())
    }

    fn write_struct(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        fields: &[Field],
    ) -> std::result::Result<(), Misfit> {
        if let Some(node) = node
            && node.members().is_none()
        {
            return Err(Misfit::wanted("an object", node));
        }
        out.push('{');
        let mut is_first = true;
        for field in fields {
            let member = node.and_then(|node| node.get(field.name));
            let is_written = match field.keep {
                Always | OrNull => true,
                Present => member.is_some(),
                NonEmpty => member.is_some_and(|member| !is_zero(member, field.shape)),
                ByRelease => {
                    self.style.mps_id_always
                        || member.is_some_and(|member| !is_zero(member, field.shape))
                }
            };
            if !is_written {
                continue;
            }
            if !is_first {
                out.push(',');
            }
            is_first = false;
            write_text(out, field.name);
            out.push(':');
            if member.is_none() && field.keep == OrNull {
                out.push_str("null");
                continue;
            }
            self.write(out, member, field.shape)
                .map_err(|misfit| misfit.under(field.name).under("."))?;
        }
        out.push('}');
        Ok(())
    }

    fn write_list(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        item: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        out.push('[');
        for (index, member) in node
            .list()
            .ok_or_else(|| Misfit::wanted("a list", node))?
            .iter()
            .enumerate()
        {
            if index > 0 {
                out.push(',');
            }
            self.write(out, Some(member), item)
                .map_err(|misfit| misfit.under(&format!("[{index}]")))?;
        }
        out.push(']');
        Ok(())
    }

    fn write_map(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        item: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        let members = node
            .members()
            .ok_or_else(|| Misfit::wanted("an object", node))?;
        // A stable sort, so that the last of equal keys is the one before the next key.
        let mut sorted: Vec<_> = members.iter().collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        out.push('{');
        let mut is_first = true;
        for (index, (key, member)) in sorted.iter().enumerate() {
            if sorted.get(index + 1).is_some_and(|next| next.0 == *key) {
                continue;
            }
            if !is_first {
                out.push(',');
            }
            is_first = false;
            write_text(out, key);
            out.push(':');
            self.write(out, Some(member), item)
                .map_err(|misfit| misfit.under(&format!("[{key:?}]")))?;
        }
        out.push('}');
        Ok(())
    }
}

fn is_integer(token: &str) -> bool {
    token
        .bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_digit())
}

/// Whether `omitempty` leaves the value out. A value of a wrong type is not zero: writing it tells.
fn is_zero(node: &Node<'_>, shape: &Shape) -> bool {
    match (&node.value, shape) {
        (Value::Boolean(false), Boolean) => true,
        (Value::Text(text), Text) => text.is_empty(),
        (Value::Number(token), Integer) => *token == "0" || *token == "-0",
        (Value::List(items), List(_)) => items.is_empty(),
        (Value::Object(members), Map(_)) => members.is_empty(),
        _ => false,
    }
}
