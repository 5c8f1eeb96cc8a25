//! Pools of every kind behind one list: the place in the configuration's list is the `PoolId`.

use failover_core::adapters::{Change, Failure, Pools};
use failover_core::ids::{DiskId, PoolId};
use std::sync::Arc;

/// Each pool's adapter, and its number there.
#[derive(Clone, Default)]
pub struct PoolSet(Vec<(Arc<dyn Pools>, PoolId)>);

impl PoolSet {
    /// A set of these, in this order.
    pub fn new(members: Vec<(Arc<dyn Pools>, PoolId)>) -> PoolSet {
        PoolSet(members)
    }

    fn member(&self, id: PoolId) -> Result<(&dyn Pools, PoolId), Failure> {
        let found = self.0.get(usize::from(id.0));
        let found = found.map(|(pools, there)| (&**pools, *there));
        found.ok_or_else(|| Failure(format!("there is no pool number {}", id.0)))
    }
}

impl Pools for PoolSet {
    fn prescan(&self, pool: PoolId) -> Result<(), Failure> {
        let (pools, id) = self.member(pool)?;
        pools.prescan(id)
    }

    fn discard(&self, pool: PoolId) -> Result<(), Failure> {
        let (pools, id) = self.member(pool)?;
        pools.discard(id)
    }

    fn import(&self, pool: PoolId, won: &[DiskId]) -> Result<Change, Failure> {
        let (pools, id) = self.member(pool)?;
        pools.import(id, won)
    }

    fn export(&self, pool: PoolId) -> Result<Change, Failure> {
        let (pools, id) = self.member(pool)?;
        pools.export(id)
    }

    fn imported(&self, pool: PoolId) -> Result<bool, Failure> {
        let (pools, id) = self.member(pool)?;
        pools.imported(id)
    }
}
