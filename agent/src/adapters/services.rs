//! Everything that runs on the MASTER alone, in its order.
//!
//! ```text
//!   start:  services of no pool ──▶ those of the imported pools     stop: all of them, in the opposite order
//! ```

use failover_core::adapters::{Change, Failure, Services};
use failover_core::ids::PoolId;

pub use super::hooks::{ExecServices, Hook};
pub use super::systemd::{DEFAULT_UNIT, SystemdServices};

/// One kind of services, all of them together.
pub trait Service: Send + Sync {
    /// Starts them all and waits.
    fn start(&self) -> Result<Change, Failure>;
    /// Stops them all and waits.
    fn stop(&self) -> Result<Change, Failure>;
}

/// Several kinds of services as one: started in the list's order, but those of no pool first; stopped in the opposite
/// order.
#[derive(Default)]
pub struct ServiceList(Vec<(Option<PoolId>, Box<dyn Service>)>);

impl std::fmt::Debug for ServiceList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServiceList({})", self.0.len())
    }
}

impl ServiceList {
    /// A list of services, each with the pool that it belongs to, if it does to one.
    pub fn new(mut list: Vec<(Option<PoolId>, Box<dyn Service>)>) -> ServiceList {
        list.sort_by_key(|(pool, _)| pool.is_some());
        ServiceList(list)
    }
}

impl Services for ServiceList {
    fn start(&self, pools: &[PoolId]) -> Result<Change, Failure> {
        let mut change = Change::AlreadySo;
        for (pool, service) in &self.0 {
            if pool.is_some_and(|pool| !pools.contains(&pool)) {
                continue;
            }
            if service.start()? == Change::Made {
                change = Change::Made;
            }
        }
        Ok(change)
    }

    fn stop(&self) -> Result<Change, Failure> {
        let mut change = Change::AlreadySo;
        let mut failures = Vec::new();
        for (_, service) in self.0.iter().rev() {
            match service.stop() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Told(&'static str, Arc<Mutex<Vec<String>>>);

    impl Service for Told {
        fn start(&self) -> Result<Change, Failure> {
            self.1.lock().expect("whole").push(format!("+{}", self.0));
            Ok(Change::Made)
        }
        fn stop(&self) -> Result<Change, Failure> {
            self.1.lock().expect("whole").push(format!("-{}", self.0));
            Ok(Change::Made)
        }
    }

    #[test]
    fn only_services_of_imported_pools_start_and_after_the_common_ones() {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = |name, pool: Option<u16>| {
            let service: Box<dyn Service> = Box::new(Told(name, said.clone()));
            (pool.map(PoolId), service)
        };
        let list = ServiceList::new(vec![
            told("tank", Some(0)),
            told("common", None),
            told("dock", Some(1)),
        ]);
        let taken = || std::mem::take(&mut *said.lock().expect("whole")).join(" ");
        list.start(&[PoolId(1)]).expect("started");
        assert_eq!(taken(), "+common +dock");
        list.start(&[]).expect("started");
        assert_eq!(taken(), "+common");
        list.stop().expect("stopped");
        assert_eq!(taken(), "-dock -tank -common");
    }
}
