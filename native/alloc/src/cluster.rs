//! A cluster read from API objects, and the questions that people ask about it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api;
use crate::dump;
use crate::explain::{self, Holders, Question};
use crate::profile::{Features, Profile};
use crate::search::claim_text;
use crate::world::World;

const GROUP: &str = "resource.k8s.io/";
/// Bytes of objects that are parsed at a time, on all cores.
const BATCH: usize = 8 << 20;
/// Bytes that are worth a thread.
const BYTES_OF_A_THREAD: usize = 256 << 10;

/// What an object is.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    kind: String,
    api_version: String,
    metadata: Name,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Deserialize, Clone)]
struct Pod {
    metadata: api::Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    resource_claims: Vec<PodClaim>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodClaim {
    name: String,
    resource_claim_name: Option<String>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    resource_claim_statuses: Vec<PodClaim>,
}

/// Everything that was read. Claims count as allocated once they are added.
pub struct Cluster {
    pub(crate) profile: Profile,
    pub(crate) world: World,
    claims: BTreeMap<String, api::ResourceClaim>,
    pods: BTreeMap<String, Pod>,
    rules: Vec<api::TaintRule>,
    holders: Holders,
    notes: Vec<String>,
    sealed: bool,
}

impl Cluster {
    /// An empty cluster of a release; `gates` differ from the release's defaults.
    pub fn new(release: &str, gates: &[(String, bool)]) -> Result<Cluster, String> {
        let mut features: Features = Profile::defaults(release)?.features;
        for (name, on) in gates {
            features.set(name, *on)?;
        }
        Ok(Cluster {
            profile: Profile::new(release, "auto", features)?,
            world: World::default(),
            claims: BTreeMap::new(),
            pods: BTreeMap::new(),
            rules: Vec::new(),
            holders: HashMap::new(),
            notes: Vec::new(),
            sealed: false,
        })
    }

    /// Adds an object or a list of objects; returns how many of each kind. Other kinds are not looked at.
    pub fn add(&mut self, document: &[u8]) -> Result<BTreeMap<String, usize>, String> {
        self.read(document)
    }

    /// The same from a file, of which only some objects are held at a time.
    pub fn add_file(&mut self, path: &Path) -> Result<BTreeMap<String, usize>, String> {
        self.read(File::open(path).map_err(|e| e.to_string())?)
    }

    /// What was odd about the objects, but kept none from being read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn read(&mut self, source: impl Read) -> Result<BTreeMap<String, usize>, String> {
        if self.sealed {
            return Err("objects are added before the first question".into());
        }
        let mut counts = BTreeMap::new();
        let mut batch: Vec<(Vec<u8>, Option<String>)> = Vec::new();
        let mut bytes = 0;
        dump::objects(source, |item, kind| {
            bytes += item.len();
            batch.push((item, kind.map(str::to_string)));
            if bytes < BATCH {
                return Ok(());
            }
            bytes = 0;
            self.add_batch(std::mem::take(&mut batch), &mut counts)
        })?;
        self.add_batch(batch, &mut counts)?;
        Ok(counts)
    }

    fn add_batch(
        &mut self,
        batch: Vec<(Vec<u8>, Option<String>)>,
        counts: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        for item in parsed(&batch) {
            let Item { kind, object, note } = item?;
            self.notes.extend(note);
            *counts.entry(kind).or_default() += 1;
            match object {
                Object::Other => {}
                Object::Node(node) => self.world.add_node(node),
                Object::Class(class) => self.world.add_class(class),
                Object::Slice(slice) => self.world.add_slice(*slice)?,
                Object::Rule(rule) => self.rules.push(rule),
                Object::Claim(claim) => {
                    self.claims.insert(claim_text(&claim), *claim);
                }
                Object::Pod(pod) => {
                    let name = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
                    self.pods.insert(name, pod);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn seal(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.sealed, true) {
            return Ok(());
        }
        for rule in std::mem::take(&mut self.rules) {
            self.world.add_rule(rule);
        }
        for (name, claim) in &self.claims {
            let Some(allocation) = &claim.status.allocation else {
                continue;
            };
            self.world
                .add_allocation(allocation, self.profile.features.consumable_capacity)?;
            let by = holder_text(name, claim);
            for entry in allocation
                .devices
                .results
                .iter()
                .filter(|e| e.admin_access != Some(true))
            {
                let id = self.world.device(&entry.driver, &entry.pool, &entry.device);
                self.holders.entry(id).or_default().push(by.clone());
            }
        }
        Ok(())
    }

    /// Claims without an allocation, and pods that have such claims and no node.
    pub fn pending(&self) -> Vec<String> {
        let waiting = |claim: &api::ResourceClaim| claim.status.allocation.is_none();
        self.claims
            .iter()
            .filter(|(_, claim)| waiting(claim))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Names like the one that is not there.
    fn similar(&self, name: &str) -> Vec<&String> {
        let wanted = name.rsplit('/').next().unwrap_or(name);
        let mut close: Vec<(usize, &String)> = self
            .claims
            .keys()
            .chain(self.pods.keys())
            .map(|known| {
                (
                    distance(known.rsplit('/').next().unwrap_or(known), wanted),
                    known,
                )
            })
            .filter(|(distance, _)| *distance <= wanted.len() / 2)
            .collect();
        close.sort();
        close.into_iter().take(3).map(|(_, name)| name).collect()
    }

    /// Explains a claim, or the claims of a pod, by `namespace/name`, as JSON.
    pub fn explain(&mut self, name: &str, node: Option<&str>) -> Result<Value, String> {
        self.seal()?;
        let names: Vec<String> = if self.claims.contains_key(name) {
            vec![name.to_string()]
        } else if let Some(pod) = self.pods.get(name) {
            claims_of(pod)
        } else {
            let close = self.similar(name);
            let hint = match &close[..] {
                [] => {
                    "; list claims with `kubectl get resourceclaims --all-namespaces`".to_string()
                }
                close => format!(
                    "; did you mean {}?",
                    close
                        .iter()
                        .map(|s| s.as_str())
                        .collect::<Vec<_>>()
                        .join(" or ")
                ),
            };
            return Err(format!("there is no claim and no pod {name}{hint}"));
        };
        if let Some(missing) = node.filter(|n| self.world.node(n).is_none()) {
            return Err(format!("there is no node {missing}"));
        }
        let mut notes = Vec::new();
        let mut waiting: Vec<api::ResourceClaim> = Vec::new();
        for name in &names {
            match self.claims.get(name) {
                None => notes.push(json!({"code": "claim.missing", "text": format!("claim {name} does not exist yet: the pod waits for it")})),
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                    notes.push(json!({"code": "claim.deleting", "text": format!("claim {name} is being deleted: pods that use it cannot be scheduled")}));
                }
                Some(claim) if claim.status.allocation.is_some() => {
                    let where_to = claim.status.allocation.as_ref().and_then(|a| a.node_selector.as_ref());
                    let place = where_to.map_or("every node".to_string(), |s| json!(s.node_selector_terms).to_string());
                    notes.push(json!({"code": "claim.elsewhere", "text": format!("claim {name} is already allocated, for {place}")}));
                }
                Some(claim) => waiting.push(claim.clone()),
            }
        }
        let claims: Vec<&api::ResourceClaim> = waiting.iter().collect();
        let question = Question {
            world: &self.world,
            profile: &self.profile,
            holders: &self.holders,
            claims: &claims,
            node,
        };
        let mut answer = explain::explain(&question);
        let wanted = holders_named(&answer);
        if answer["fits"].as_array().is_some_and(Vec::is_empty) && !wanted.is_empty() {
            let holding: Vec<(String, &api::Allocation)> = self
                .claims
                .iter()
                .filter_map(|(name, claim)| {
                    let text = holder_text(name, claim);
                    let allocation = claim.status.allocation.as_ref()?;
                    wanted.contains(&text).then_some((text, allocation))
                })
                .collect();
            let more = explain::release(
                &mut self.world,
                &self.profile,
                &self.holders,
                &claims,
                &holding,
            );
            if let Some(list) = answer["relaxations"].as_array_mut() {
                list.extend(more);
            }
        }
        answer["notes"] = notes.into();
        answer["subject"] = name.into();
        answer["counts"] = json!({
            "nodes": self.world.nodes.len(),
            "slices": self.world.slices.len(),
            "devices": self.world.slices.iter().map(|s| s.devices.len()).sum::<usize>(),
        });
        Ok(answer)
    }
}

/// An object of a kind that matters here.
enum Object {
    Node(api::Node),
    Class(api::DeviceClass),
    Slice(Box<api::ResourceSlice>),
    Rule(api::TaintRule),
    Claim(Box<api::ResourceClaim>),
    Pod(Pod),
    Other,
}

struct Item {
    kind: String,
    object: Object,
    note: Option<String>,
}

/// The objects of a batch in their order, parsed by one thread a core.
fn parsed(batch: &[(Vec<u8>, Option<String>)]) -> Vec<Result<Item, String>> {
    let one = |(text, list): &(Vec<u8>, Option<String>)| parse(text, list.as_deref());
    let bytes: usize = batch.iter().map(|(text, _)| text.len()).sum();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(bytes / BYTES_OF_A_THREAD).max(1);
    if threads == 1 {
        return batch.iter().map(one).collect();
    }
    let parts = batch.chunks(batch.len().div_ceil(threads));
    thread::scope(|scope| {
        let running: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>()))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Vec<Result<Item, String>>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().flat_map(join).collect()
    })
}

/// Parses one object: first what it is, then the whole of it if it matters. `list`: the kind of the list that it is in.
fn parse(text: &[u8], list: Option<&str>) -> Result<Item, String> {
    let other = |kind: String| Item {
        kind,
        object: Object::Other,
        note: None,
    };
    if text.first() != Some(&b'{') {
        return Ok(other(String::new()));
    }
    let read = String::from_utf8_lossy(text);
    let text: &str = &read;
    let header: Header = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let (mut kind, version, name) = (header.kind, header.api_version, header.metadata.name);
    if kind.is_empty() {
        let listed = list.and_then(|l| l.strip_suffix("List"));
        kind = listed.unwrap_or("").to_string();
    }
    if version.starts_with(GROUP) && version != format!("{GROUP}v1") && kind != "DeviceTaintRule" {
        return Err(format!(
            "{kind} {name} is of {version}: this reads {GROUP}v1; write the dump with `kubectl get {}.v1.resource.k8s.io -o json`",
            kind.to_lowercase() + "s"
        ));
    }
    let failed = |error: serde_json::Error| format!("{kind} {name}: {error}");
    let object = match kind.as_str() {
        "Node" => Object::Node(serde_json::from_str(text).map_err(failed)?),
        "DeviceClass" => Object::Class(serde_json::from_str(text).map_err(failed)?),
        "ResourceSlice" => Object::Slice(Box::new(serde_json::from_str(text).map_err(failed)?)),
        "DeviceTaintRule" => Object::Rule(serde_json::from_str(text).map_err(failed)?),
        "ResourceClaim" => {
            let mut claim: api::ResourceClaim = serde_json::from_str(text).map_err(failed)?;
            default(&mut claim);
            Object::Claim(Box::new(claim))
        }
        "Pod" => Object::Pod(serde_json::from_str(text).map_err(failed)?),
        _ => return Ok(other(kind)),
    };
    let replaced = matches!(read, Cow::Owned(_));
    let note = replaced
        .then(|| format!("{kind} {name} has bytes that are not UTF-8; they are read as \u{fffd}"));
    Ok(Item { kind, object, note })
}

/// An allocated claim with the pods that use it.
fn holder_text(name: &str, claim: &api::ResourceClaim) -> String {
    let pods: Vec<&str> = claim
        .status
        .reserved_for
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    match pods.is_empty() {
        true => name.to_string(),
        false => format!("{name} (pod {})", pods.join(", ")),
    }
}

/// Holders that causes name.
fn holders_named(answer: &Value) -> Vec<String> {
    let causes = answer["causes"].as_array().map_or(&[][..], |v| v);
    let lists = causes.iter().filter_map(|c| c.get("holders")?.as_array());
    lists
        .flatten()
        .filter_map(Value::as_str)
        .map(|text| match text.split_once(" (") {
            // Counters name the device first.
            Some((_, inner)) if !inner.starts_with("pod ") => {
                inner.trim_end_matches(')').to_string() + if inner.contains('(') { ")" } else { "" }
            }
            _ => text.to_string(),
        })
        .collect()
}

fn claims_of(pod: &Pod) -> Vec<String> {
    let generated = |name: &str| {
        pod.status
            .resource_claim_statuses
            .iter()
            .find(|s| s.name == name)
            .and_then(|s| s.resource_claim_name.clone())
    };
    pod.spec
        .resource_claims
        .iter()
        .filter_map(|one| {
            one.resource_claim_name
                .clone()
                .or_else(|| generated(&one.name))
                .or(Some(one.name.clone()))
        })
        .map(|name| format!("{}/{name}", pod.metadata.namespace))
        .collect()
}

/// What the API server fills in; dumps of hand-written objects may lack it.
pub(crate) fn default(claim: &mut api::ResourceClaim) {
    for request in &mut claim.spec.devices.requests {
        let exact = request
            .exactly
            .iter_mut()
            .map(|e| (&mut e.allocation_mode, &mut e.count));
        let subs = request
            .first_available
            .iter_mut()
            .map(|s| (&mut s.allocation_mode, &mut s.count));
        for (mode, count) in exact.chain(subs) {
            if mode.is_empty() {
                *mode = "ExactCount".into();
            }
            if mode == "ExactCount" && *count == 0 {
                *count = 1;
            }
        }
    }
}

/// Number of edits from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
