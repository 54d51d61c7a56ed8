//! A ResourceClaim as the API server sends it, of any version served.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::json::{LIMIT, Node, Value, members, parse, parse_within, text};
use crate::quantity;
use crate::shape::{CLAIM_STATUS, Style, marshal};

/// One DeviceRequestAllocationResult.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub request: String,
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub admin_access: bool,
    pub share_id: Option<String>,
    /// Of a shared device: how much of each capacity, in canonical form, by name.
    pub consumed_capacity: Vec<(String, String)>,
}

/// One entry of `status.allocation.devices.config`; no driver: the entry is not opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub source: String,
    pub requests: Vec<String>,
    pub driver: Option<String>,
    /// The parameters' text, as it stands in the claim.
    pub parameters: String,
}

/// The allocation of a claim: results and configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub results: Vec<Given>,
    pub configs: Vec<Config>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub allocation: Allocation,
    /// `status`, projected onto the fields of resource.k8s.io/v1.
    pub status: String,
}

/// The maximum nesting of a claim. It is stored some levels deep in the checkpoint, which is read down to LIMIT.
const DEPTH: usize = LIMIT - 100;

fn malformed(text: impl Into<String>) -> Error {
    Error::new(Kind::Malformed, text)
}

/// The claim in an API object's body.
pub fn decode(body: &[u8]) -> Result<Claim> {
    let text = text(body);
    let source = &*text;
    let root = parse_within(source, DEPTH)?;
    if root.members().is_none() {
        return Err(malformed(format!(
            "not a ResourceClaim: the body is {}",
            root.noun()
        )));
    }
    if let Some(kind) = root.get("kind").map(|kind| kind.text().unwrap_or_default())
        && kind != "ResourceClaim"
    {
        return Err(malformed(format!("not a ResourceClaim: kind {kind:?}")));
    }
    let named = |key: &str| -> Result<String> {
        root.get("metadata")
            .and_then(|metadata| identity(metadata, key))
            .ok_or_else(|| malformed(format!("not a ResourceClaim: metadata.{key} is missing")))
    };
    let (namespace, name, uid) = (named("namespace")?, named("name")?, named("uid")?);
    let within = |mut error: Error| {
        error.text = format!("claim {namespace}/{name}: {}", error.text);
        error
    };
    // Anything but an object is no answer about the claim: read as "not allocated" it would free its devices.
    if let Some(status) = root.get("status")
        && status.members().is_none()
        && !matches!(status.value, Value::Null)
    {
        return Err(within(malformed(format!("status is {}", status.noun()))));
    }
    let Some(status) = root
        .get("status")
        .filter(|status| status.get("allocation").is_some())
    else {
        // Items of a list say no kind, but every claim has a spec.
        if root.get("kind").is_none() && root.get("spec").and_then(Node::members).is_none() {
            return Err(within(malformed("it has neither kind nor spec")));
        }
        return Err(Error::new(
            Kind::Unallocated,
            format!("claim {namespace}/{name} not allocated"),
        ));
    };
    // The projection comes first: it is what finds fields of a wrong type and names them.
    let projected =
        marshal(status, source, &CLAIM_STATUS, Style::RELEASED, "status").map_err(within)?;
    let allocation = allocation(status, source);
    Ok(Claim {
        allocation,
        status: projected,
        namespace,
        name,
        uid,
    })
}

/// Namespace, name and UID of a claim that `decode` may refuse; None unless all three are present.
pub fn identify(body: &[u8]) -> Option<(String, String, String)> {
    let text = text(body);
    let metadata = members(&text)
        .ok()?
        .into_iter()
        .rfind(|(name, _)| name == "metadata")?;
    // The metadata alone, so that nothing else of the claim is in the way.
    let metadata = parse(&text[metadata.1]).ok()?;
    let named = |key: &str| identity(&metadata, key);
    Some((named("namespace")?, named("name")?, named("uid")?))
}

fn identity(metadata: &Node<'_>, key: &str) -> Option<String> {
    let text = metadata.get(key).and_then(Node::text)?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The allocation in a status alone, such as the checkpoint keeps.
///
/// It takes what the checkpoint's reader takes: other values that stand in a status (times, say) are not looked at, so
/// that one odd entry costs no other claim anything.
pub fn decode_status(status: &[u8]) -> Result<Allocation> {
    let text = text(status);
    let source = &*text;
    Ok(allocation(&parse(source)?, source))
}

/// The capacities that a result consumes, sorted by name; of equal names the last one counts, as Go has it.
fn capacities(result: &Node<'_>) -> Vec<(String, String)> {
    let members = result
        .get("consumedCapacity")
        .and_then(Node::members)
        .unwrap_or_default();
    let consumed: BTreeMap<&str, String> = members
        .iter()
        .map(|(name, node)| {
            let text = match &node.value {
                Value::Text(text) => text,
                Value::Number(token) => *token,
                _ => "0",
            };
            let canonical = quantity::canonical(text.trim());
            (&**name, canonical.unwrap_or_else(|| text.to_owned()))
        })
        .collect();
    consumed
        .into_iter()
        .map(|(name, quantity)| (name.to_owned(), quantity))
        .collect()
}

/// The allocation of a status; what has no place in one counts as absent.
fn allocation(status: &Node<'_>, source: &str) -> Allocation {
    let text = |node: &Node<'_>, key: &str| {
        node.get(key)
            .and_then(Node::text)
            .unwrap_or_default()
            .to_owned()
    };
    let devices = status
        .get("allocation")
        .and_then(|allocation| allocation.get("devices"));
    let list = |key: &str| {
        devices
            .and_then(|devices| devices.get(key))
            .and_then(Node::list)
            .unwrap_or_default()
    };
    let results = list("results")
        .iter()
        .map(|node| Given {
            request: text(node, "request"),
            driver: text(node, "driver"),
            pool: text(node, "pool"),
            device: text(node, "device"),
            admin_access: node
                .get("adminAccess")
                .is_some_and(|node| node.value == Value::Boolean(true)),
            share_id: node.get("shareID").and_then(Node::text).map(str::to_owned),
            consumed_capacity: capacities(node),
        })
        .collect();
    let configs = list("config")
        .iter()
        .map(|node| {
            let opaque = node.get("opaque");
            Config {
                source: text(node, "source"),
                requests: node
                    .get("requests")
                    .and_then(Node::list)
                    .unwrap_or_default()
                    .iter()
                    .map(|request| request.text().unwrap_or_default().to_owned())
                    .collect(),
                driver: opaque.map(|opaque| text(opaque, "driver")),
                parameters: opaque
                    .and_then(|opaque| opaque.get("parameters"))
                    .map_or("null", |parameters| parameters.source(source))
                    .to_owned(),
            }
        })
        .collect();
    Allocation { results, configs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(status: &str) -> String {
        format!(
            r#"{{"kind":"ResourceClaim","metadata":{{"namespace":"ns","name":"c","uid":"u"}},"status":{status}}}"#
        )
    }

    #[test]
    fn fields_come_in_gos_order_and_unknown_ones_go() {
        let claim = decode(body(r#"{"reservedFor":[{"uid":"1","name":"p","resource":"pods"}], "allocation": {"new": 1, "allocationTimestamp":"2026-01-01T01:00:00+01:00",
            "devices":{"results":[{"device":"gpu-0","pool":"n","driver":"d","request":"r","adminAccess":false,"shareID":"s","consumedCapacity":{"b":"1024Mi","a":1},
            "tolerations":[{"tolerationSeconds":0,"key":"k"}]}],
            "config":[{"opaque":{"parameters": {"z": "<&>", "a": 1.0} ,"driver":"d"},"source":"FromClaim"}]},
            "nodeSelector":{"nodeSelectorTerms":[{"matchFields":[{"values":["n"],"operator":"In","key":"metadata.name"}]}]}}}"#).as_bytes()).unwrap();
        assert_eq!(
            claim.status,
            concat!(
                r#"{"allocation":{"devices":{"results":[{"request":"r","driver":"d","pool":"n","device":"gpu-0","adminAccess":false,"#,
                r#""tolerations":[{"key":"k","tolerationSeconds":0}],"shareID":"s","consumedCapacity":{"a":"1","b":"1Gi"}}],"#,
                r#""config":[{"source":"FromClaim","opaque":{"driver":"d","parameters":{"z":"\u003c\u0026\u003e","a":1.0}}}]},"#,
                r#""nodeSelector":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}]},"#,
                r#""allocationTimestamp":"2026-01-01T00:00:00Z"},"reservedFor":[{"resource":"pods","name":"p","uid":"1"}]}"#
            )
        );
        assert_eq!(
            claim.allocation.configs[0].parameters,
            r#"{"z": "<&>", "a": 1.0}"#
        );
        assert_eq!(claim.allocation.results[0].share_id.as_deref(), Some("s"));
    }

    #[test]
    fn statuses_of_devices_follow() {
        let claim = decode(body(r#"{"allocation":{"devices":{}},"devices":[{"driver":"d","pool":"p","device":"x","data":{ "a": 1 },
            "networkData":{"ips":["10.0.0.1/8"]}},{"driver":"d","pool":"p","device":"y","conditions":[{"type":"T","status":"True","lastTransitionTime":null,"reason":"","message":"m","observedGeneration":0}]}]}"#).as_bytes()).unwrap();
        assert_eq!(
            claim.status,
            concat!(
                r#"{"allocation":{"devices":{}},"devices":[{"driver":"d","pool":"p","device":"x","conditions":null,"data":{"a":1},"#,
                r#""networkData":{"ips":["10.0.0.1/8"]}},{"driver":"d","pool":"p","device":"y","conditions":[{"type":"T","status":"True","lastTransitionTime":null,"reason":"","message":"m"}]}]}"#
            )
        );
    }

    #[test]
    fn unallocated_and_malformed_claims_say_so() {
        for status in ["null", "{}", r#"{"allocation":null}"#] {
            let error = decode(body(status).as_bytes()).unwrap_err();
            assert_eq!(
                (error.kind, error.text.as_str()),
                (Kind::Unallocated, "claim ns/c not allocated")
            );
        }
        let error =
            decode(body(r#"{"allocation":{"devices":{"results":[{"request":1}]}}}"#).as_bytes())
                .unwrap_err();
        assert_eq!(
            error.text,
            "claim ns/c: status.allocation.devices.results[0].request: a string was expected, found a number"
        );
        for text in [
            "[]",
            "{}",
            r#"{"kind":"Pod"}"#,
            r#"{"metadata":{"namespace":"a","name":"","uid":"u"}}"#,
        ] {
            assert_eq!(
                decode(text.as_bytes()).unwrap_err().kind,
                Kind::Malformed,
                "{text}"
            );
        }
        assert_eq!(decode(b"{\"a\"").unwrap_err().kind, Kind::Truncated);
        assert_eq!(decode(b"\xff").unwrap_err().kind, Kind::Syntax);
    }

    #[test]
    fn a_claim_that_cannot_be_read_still_says_who_it_is() {
        let body = body(&format!(
            "{{\"allocation\":{}{}}}",
            "[".repeat(LIMIT),
            "]".repeat(LIMIT)
        ));
        assert_eq!(decode(body.as_bytes()).unwrap_err().kind, Kind::Syntax);
        let who = Some(("ns".to_owned(), "c".to_owned(), "u".to_owned()));
        assert_eq!(identify(body.as_bytes()), who);
        for none in [
            "",
            "[]",
            "{}",
            r#"{"metadata":{"namespace":"ns","name":"c"}}"#,
        ] {
            assert_eq!(identify(none.as_bytes()), None, "{none}");
        }
    }
}
