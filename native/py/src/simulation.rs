//! The simulator: node types, claims and pods in, figures out. Runs without the interpreter lock.

use nvdra_alloc::simulate;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::allocation::AllocationError;

#[pyclass(module = "nvdra._core")]
pub struct Simulation(simulate::Simulation);

type Placement = (usize, String, f64, Vec<String>);
/// Driver, pool, device, and what a share consumes.
type InUse = (String, String, String, Option<Vec<(String, String)>>);

#[pymethods]
impl Simulation {
    #[new]
    fn new(
        release: &str,
        gates: Vec<(String, bool)>,
        policy: &str,
        percent: usize,
        seed: u64,
    ) -> PyResult<Simulation> {
        simulate::Simulation::new(release, &gates, policy, percent, seed)
            .map(Simulation)
            .map_err(AllocationError::new_err)
    }

    fn add_classes(&mut self, classes: &[u8]) -> PyResult<()> {
        self.0
            .add_classes(classes)
            .map_err(AllocationError::new_err)
    }

    fn add_nodes(&mut self, slices: &[u8], node: &str, names: Vec<String>) -> PyResult<()> {
        self.0
            .add_nodes(slices, node, names)
            .map_err(AllocationError::new_err)
    }

    fn occupy(&mut self, node: usize, devices: Vec<InUse>) -> PyResult<()> {
        let devices: Vec<simulate::Allocated> = devices
            .into_iter()
            .map(|(driver, pool, device, share)| simulate::Allocated {
                driver,
                pool,
                device,
                share,
            })
            .collect();
        self.0
            .occupy(node, &devices)
            .map_err(AllocationError::new_err)
    }

    fn add_template(&mut self, claims: &[u8]) -> PyResult<usize> {
        self.0
            .add_template(claims)
            .map_err(AllocationError::new_err)
    }

    fn add_pods(
        &mut self,
        arrivals: Vec<f64>,
        durations: Vec<f64>,
        templates: Vec<u32>,
        nodes: Vec<Option<u32>>,
    ) -> PyResult<()> {
        let count = arrivals.len();
        if [durations.len(), templates.len(), nodes.len()] != [count; 3] {
            return Err(PyValueError::new_err("columns of different lengths"));
        }
        for index in 0..count {
            self.0.add_pod(
                arrivals[index],
                durations[index],
                templates[index],
                nodes[index],
            );
        }
        Ok(())
    }

    fn advance(&mut self, py: Python<'_>, events: usize) -> bool {
        py.detach(|| self.0.advance(events))
    }

    fn progress(&self) -> (usize, usize, f64, usize) {
        self.0.progress()
    }

    fn summary(&mut self, py: Python<'_>) -> String {
        py.detach(|| self.0.summary().to_string())
    }

    fn placements(&self) -> Vec<Placement> {
        self.0.placements()
    }
}

#[pyfunction]
pub fn simulation_policies() -> Vec<&'static str> {
    simulate::POLICIES.to_vec()
}
