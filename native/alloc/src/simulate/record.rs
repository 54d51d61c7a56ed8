//! What a run is remembered by: figures over time, totals by cause, and how long pods waited.

use serde_json::{Value, json};

use super::node_type::{CAUSES, Cause, Figures};

/// The fleet at one moment. Memory is in MiB.
#[derive(Clone, Copy, Default)]
pub struct Now {
    pub used: u64,
    pub busy: u64,
    pub scattered: u64,
    pub running: u64,
    pub waiting: [u64; CAUSES.len()],
}

impl Now {
    pub fn change(&mut self, before: Figures, after: Figures) {
        self.used = self.used + after.used - before.used;
        self.busy = self.busy + u64::from(after.busy) - u64::from(before.busy);
        self.scattered = self.scattered + after.scattered - before.scattered;
    }

    fn waiting(&self) -> u64 {
        self.waiting.iter().sum()
    }
}

/// Sums weighted by time.
#[derive(Default)]
struct Sums {
    seconds: f64,
    used: f64,
    busy: f64,
    scattered_share: f64,
    waiting: f64,
    peak_waiting: u64,
}

pub struct Record {
    pub now: Now,
    total: u64,
    gpus: u64,
    /// The time up to which everything is recorded.
    time: f64,
    /// Means are taken up to the last arrival: afterwards the fleet only empties.
    until: f64,
    next_sample: f64,
    step: f64,
    samples: Vec<(f64, Now)>,
    sums: Sums,
    /// Pods by the first refusal.
    pub refused: [u64; CAUSES.len()],
    /// Pods that no node of the fleet can ever serve.
    pub never: [u64; CAUSES.len()],
}

impl Record {
    pub fn new(total: u64, gpus: u64, begin: f64, until: f64, samples: u32) -> Record {
        let step = (until - begin) / f64::from(samples.max(1));
        Record {
            now: Now::default(),
            total,
            gpus,
            time: begin,
            until,
            next_sample: begin,
            step: if step > 0.0 { step } else { f64::INFINITY },
            samples: Vec::new(),
            sums: Sums::default(),
            refused: [0; CAUSES.len()],
            never: [0; CAUSES.len()],
        }
    }

    pub fn time(&self) -> f64 {
        self.time
    }

    /// Records that nothing changes until `time`.
    pub fn advance(&mut self, time: f64) {
        while self.next_sample < time && self.next_sample <= self.until {
            self.samples.push((self.next_sample, self.now));
            self.next_sample += self.step;
        }
        let seconds = time.min(self.until) - self.time;
        if seconds > 0.0 {
            let scattered = self.scattered_share(&self.now);
            let sums = &mut self.sums;
            sums.seconds += seconds;
            sums.used += self.now.used as f64 * seconds;
            sums.busy += self.now.busy as f64 * seconds;
            sums.scattered_share += scattered * seconds;
            sums.waiting += self.now.waiting() as f64 * seconds;
        }
        self.sums.peak_waiting = self.sums.peak_waiting.max(self.now.waiting());
        self.time = self.time.max(time);
    }

    /// Free memory on GPUs in use, as a share of all free memory.
    fn scattered_share(&self, now: &Now) -> f64 {
        let free = self.total - now.used.min(self.total);
        if free == 0 {
            0.0
        } else {
            now.scattered as f64 / free as f64
        }
    }

    pub fn wait(&mut self, cause: Cause) {
        self.now.waiting[cause as usize] += 1;
        self.sums.peak_waiting = self.sums.peak_waiting.max(self.now.waiting());
    }

    pub fn series(&self) -> Value {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let column = |of: &dyn Fn(&Now) -> Value| -> Value {
            self.samples.iter().map(|(_, n)| of(n)).collect()
        };
        let causes = (1..CAUSES.len()).filter(|cause| {
            let mut samples = self.samples.iter();
            samples.any(|(_, now)| now.waiting[*cause] > 0)
        });
        let waiting: serde_json::Map<String, Value> = causes
            .map(|cause| {
                (
                    CAUSES[cause].into(),
                    column(&|now| now.waiting[cause].into()),
                )
            })
            .collect();
        json!({
            "time": self.samples.iter().map(|(time, _)| *time).collect::<Vec<f64>>(),
            "memory": column(&|now| share(now.used, self.total).into()),
            "gpus": column(&|now| share(now.busy, self.gpus).into()),
            "fragmentation": column(&|now| self.scattered_share(now).into()),
            "running": column(&|now| now.running.into()),
            "waiting": waiting,
        })
    }

    pub fn means(&self) -> Value {
        let sums = &self.sums;
        let seconds = if sums.seconds > 0.0 {
            sums.seconds
        } else {
            1.0
        };
        json!({
            "memory": sums.used / seconds / self.total.max(1) as f64,
            "gpus": sums.busy / seconds / self.gpus.max(1) as f64,
            "fragmentation": sums.scattered_share / seconds,
            "waiting": sums.waiting / seconds,
            "peakWaiting": sums.peak_waiting,
        })
    }
}

/// Non-zero counts by code.
pub fn by_code(counts: &[u64; CAUSES.len()]) -> Value {
    let counted = CAUSES.iter().zip(counts).filter(|(_, count)| **count > 0);
    let map: serde_json::Map<String, Value> = counted
        .map(|(code, count)| ((*code).to_string(), (*count).into()))
        .collect();
    map.into()
}

/// Mean and percentiles of waiting times, in seconds.
pub fn waits(mut waits: Vec<f64>) -> Value {
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((waits.len() as f64 * share).ceil() as usize).saturating_sub(1);
        waits.get(index).copied().unwrap_or(0.0)
    };
    json!({
        "mean": waits.iter().sum::<f64>() / waits.len().max(1) as f64,
        "p50": at(0.5),
        "p95": at(0.95),
        "p99": at(0.99),
        "max": at(1.0),
    })
}
