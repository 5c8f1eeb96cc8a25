//! The emulated disk behind the shelf's socket, as the demo's daemons and hosts reach it.

use super::emulated::{answer, lacks, what};
use super::list::{Command, Deed, Step};
use super::run::NEXUSES;
use super::{Answer, Target};
use crate::disk::Nexus;
use crate::shelf::bay::What;
use crate::shelf::client::ShelfConnection;
use crate::shelf::wire::Request;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// One disk of a shelf, one connection for each nexus.
#[derive(Debug)]
pub struct Shelf {
    disk: u32,
    connections: BTreeMap<Nexus, ShelfConnection>,
    asked: BTreeMap<Nexus, Command>,
}

impl Shelf {
    /// Disk number `disk` of the shelf at `socket`.
    ///
    /// # Errors
    /// The shelf can't be reached.
    pub fn new(socket: &Path, disk: u32) -> std::io::Result<Shelf> {
        let connect = |nexus: Nexus| {
            let who = Some((nexus.node, nexus.path.0));
            Ok((nexus, ShelfConnection::connect(socket, who)?))
        };
        Ok(Shelf {
            disk,
            connections: NEXUSES
                .into_iter()
                .map(connect)
                .collect::<std::io::Result<_>>()?,
            asked: BTreeMap::new(),
        })
    }
}

impl Target for Shelf {
    fn lacks(&self, step: &Step) -> Option<&'static str> {
        match step {
            Step::Ask(_, Command::RegisterVolatile { .. }, _)
            | Step::Do(Deed::PowerCycle)
            | Step::Ask(_, Command::ResetUnit, _) => {
                Some("the shelf's disks keep their power, and nobody resets them")
            }
            Step::Do(Deed::MediumStops | Deed::MediumGoesOn) => {
                Some("the shelf's medium doesn't stop")
            }
            Step::Ask(_, command, _) | Step::Begin(_, command) => lacks(*command),
            Step::End(..) | Step::Settle(_) => None,
        }
    }

    fn begin(&mut self, nexus: Nexus, command: Command) -> Result<(), String> {
        let disk = self.disk;
        let request = match what(command).ok_or("the shelf hasn't that command")? {
            What::Reserve(command) => Request::Reserve { disk, command },
            What::Append(records) => Request::Append { disk, records },
            What::Tail(count) => Request::Tail {
                disk,
                count: count as u32,
            },
        };
        let connection = self.connections.get_mut(&nexus).ok_or("no such path")?;
        connection
            .send(&request)
            .map_err(|error| error.to_string())?;
        self.asked.insert(nexus, command);
        Ok(())
    }

    fn end(&mut self, nexus: Nexus, within: Duration) -> Result<Option<Answer>, String> {
        let connection = self.connections.get_mut(&nexus).ok_or("no such path")?;
        let reply = connection.receive(Instant::now() + within);
        let Some((_, reply)) = reply.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let command = self.asked.remove(&nexus).ok_or("nothing was asked")?;
        Ok(Some(answer(command, reply)))
    }

    fn act(&mut self, _deed: Deed) -> Result<(), String> {
        Err("nothing happens to the shelf".to_owned())
    }
}
