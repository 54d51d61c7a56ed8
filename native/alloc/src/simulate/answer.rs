//! A run as JSON.

use super::*;

impl Simulation {
    /// Figures of the run so far.
    pub fn summary(&mut self) -> Value {
        if self.record.is_none() {
            self.begin();
        }
        for node_type in &self.types {
            for (template, text) in &node_type.errors {
                self.errors.entry(*template).or_insert_with(|| text.clone());
            }
        }
        let waiting = self.queues.values().map(VecDeque::len).sum::<usize>();
        let arrived = &self.pods[..self.next_pod];
        let record = self.record.as_ref().expect("begun");
        let templates: Vec<Value> = (0..self.templates.len())
            .map(|template| {
                let of: Vec<&Pod> = arrived
                    .iter()
                    .filter(|pod| pod.template as usize == template)
                    .collect();
                json!({
                    "pods": of.len(),
                    "placed": of.iter().filter(|pod| pod.node != NONE).count(),
                    "wait": waits(of.iter().filter(|pod| pod.node != NONE).map(wait_of).collect()),
                    "error": self.errors.get(&template),
                })
            })
            .collect();
        let placed: Vec<&Pod> = arrived.iter().filter(|pod| pod.node != NONE).collect();
        json!({
            "fleet": {
                "nodes": self.nodes.len(),
                "types": self.types.len(),
                "gpus": self.sum(|one| one.gpus() as u64),
                "devices": self.sum(|one| one.devices() as u64),
                "memoryMiB": self.sum(NodeType::total),
            },
            "profile": {"release": self.profile.release, "patch": self.profile.patch(), "variant": self.profile.variant.name()},
            "time": record.time(),
            "pods": {
                "all": self.pods.len(),
                "arrived": arrived.len(),
                "placed": placed.len(),
                "delayed": placed.iter().filter(|pod| pod.start > pod.arrival).count(),
                "waiting": waiting,
                "never": record.never.iter().sum::<u64>(),
            },
            "wait": waits(placed.iter().map(wait_of).collect()),
            "means": record.means(),
            "refused": by_code(&record.refused),
            "never": by_code(&record.never),
            "templates": templates,
            "series": record.series(),
            "searches": self.types.iter().map(|one| one.searches).sum::<u64>(),
        })
    }

    /// Of each pod that was placed: its number, node, start, and devices.
    pub fn placements(&self) -> Vec<(usize, String, f64, Vec<String>)> {
        let placed = self
            .pods
            .iter()
            .enumerate()
            .filter(|(_, pod)| pod.node != NONE);
        placed
            .map(|(index, pod)| {
                let place = self.nodes[pod.node as usize];
                let node_type = &self.types[place.node_type as usize];
                let taken = &node_type.placement(pod.placement).taken;
                let devices = taken.iter().map(|one| node_type.device_name(one.device));
                let node = self.names[pod.node as usize].to_string();
                (index, node, pod.start, devices.collect())
            })
            .collect()
    }

    fn sum(&self, of: impl Fn(&NodeType) -> u64) -> u64 {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| of(&self.types[node.node_type as usize]))
            .sum()
    }
}

fn wait_of(pod: &&Pod) -> f64 {
    pod.start - pod.arrival
}
