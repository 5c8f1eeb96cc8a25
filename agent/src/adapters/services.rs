//! Everything that runs on the MASTER alone, in its order.

use failover_core::adapters::{Change, Failure, Services};

pub use super::hooks::{ExecServices, Hook};
pub use super::systemd::{DEFAULT_UNIT, SystemdServices};

/// Several kinds of services as one: started in the list's order, stopped in the opposite one.
#[derive(Default)]
pub struct ServiceList(Vec<Box<dyn Services>>);

impl std::fmt::Debug for ServiceList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServiceList({})", self.0.len())
    }
}

impl ServiceList {
    /// A list of services.
    pub fn new(list: Vec<Box<dyn Services>>) -> ServiceList {
        ServiceList(list)
    }
}

impl Services for ServiceList {
    fn start(&self) -> Result<Change, Failure> {
        let mut change = Change::AlreadySo;
        for services in &self.0 {
            if services.start()? == Change::Made {
                change = Change::Made;
            }
        }
        Ok(change)
    }

    fn stop(&self) -> Result<Change, Failure> {
        let mut change = Change::AlreadySo;
        let mut failures = Vec::new();
        for services in self.0.iter().rev() {
            match services.stop() {
                Ok(Change::Made) => change = Change::Made,
                Ok(Change::AlreadySo) => {}
                Err(failure) => failures.push(failure.0),
            }
        }
        if failures.is_empty() {
            Ok(change)
        } else {
            Err(Failure(failures.join("; ")))
        }
    }
}
