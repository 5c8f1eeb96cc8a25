//! Imports or exports the pools of a configuration without any fencing: to measure and to try the adapters on disks that
//! nobody else uses. `pools FILE import|export|imported|prescan|discard`; every disk counts as won.

use failover_core::ids::{DiskId, PoolId};
use failoverd::assemble::Machine;
use failoverd::config::Config;
use failoverd::disks::SharedDisks;
use std::error::Error;
use std::path::Path;
use std::time::Instant;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

fn main() -> Result<(), Box<dyn Error>> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).init();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, what] = arguments.as_slice() else {
        return Err("pools FILE import|export|imported|prescan|discard".into());
    };
    let config = Config::load(Path::new(file))?;
    let disks = SharedDisks::open(&config)?;
    let pools = Machine::real(&config, disks.fence.clone())?.pools;
    let won: Vec<DiskId> = config.disks.iter().map(|name| DiskId::of(name)).collect();
    // All at the same time, as the daemon does.
    std::thread::scope(|scope| {
        for (pool, id) in config.pools.iter().zip(0..) {
            let (pools, won, id) = (&pools, &won, PoolId(id));
            scope.spawn(move || {
                let began = Instant::now();
                let answer = match what.as_str() {
                    "import" => format!("{:?}", pools.import(id, won)),
                    "export" => format!("{:?}", pools.export(id)),
                    "prescan" => format!("{:?}", pools.prescan(id)),
                    "discard" => format!("{:?}", pools.discard(id)),
                    _ => format!("{:?}", pools.imported(id)),
                };
                let took = began.elapsed().as_millis();
                println!("{} {what}: {answer} in {took} ms", pool.name);
            });
        }
    });
    Ok(())
}
