//! Judges the run: the client's acknowledgements against the shelf's own log.

use super::client::{Book, payload};
use crate::shelf::client::ShelfConnection;
use crate::shelf::log::{ImportMark, Landed};
use crate::shelf::wire::{RECORDS_MAX, Reply, Request};
use failover_core::ids::Node;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;
use std::sync::MutexGuard;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// What was found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Records that the client has an acknowledgement for.
    pub acknowledged: u64,
    /// Of these, records that aren't on the disks, or damaged.
    pub lost: u64,
    /// Records that both controllers wrote, and writes of one controller accepted after the other's import began.
    pub double: u64,
    /// Writes that the disks accepted, the pools' own included.
    pub written: u64,
    /// Writes that the disks refused or aborted.
    pub refused: u64,
}

/// Compares, audit after audit.
pub struct Judge {
    shelf: ShelfConnection,
    /// For each disk, how many of its writes were seen.
    seen: Vec<u64>,
    /// For each record number, who wrote it: bit 0 A, bit 1 B.
    writers: Vec<u8>,
    /// Writes seen, by time; those newer than the last look at the imports wait.
    waiting: Vec<Landed>,
    refused: [u64; 2],
    verdict: Verdict,
}

impl Judge {
    /// A judge over the shelf at `socket`.
    pub fn connect(socket: &Path, disks: usize) -> io::Result<Judge> {
        Ok(Judge {
            shelf: ShelfConnection::connect(socket, None)?,
            seen: vec![0; disks],
            writers: Vec::new(),
            waiting: Vec::new(),
            refused: [0; 2],
            verdict: Verdict::default(),
        })
    }

    /// Looks at everything that is new since the last audit.
    pub fn audit(&mut self, mut book: MutexGuard<'_, Book>) -> io::Result<Verdict> {
        // First the acknowledgements, then the log: what is acknowledged must have landed by now.
        let acknowledged = book.take_unaudited();
        drop(book);
        for disk in 0..self.seen.len() {
            while self.read_log(disk)? == RECORDS_MAX {}
        }
        let imports = self.read_marks()?;
        self.judge_writers(&imports);
        for number in &acknowledged {
            if self.writers.get(*number as usize).is_none_or(|by| *by == 0) {
                self.verdict.lost += 1;
            }
        }
        self.verdict.acknowledged += acknowledged.len() as u64;
        Ok(self.verdict.clone())
    }

    /// Writes refused or aborted so far.
    pub fn refused(&self, node: Node) -> u64 {
        self.refused[node as usize]
    }

    /// Accepted writes of `node` that landed after `from`, of all audits whose log is still at hand.
    pub fn landed_since(&mut self, node: Node, from: u64) -> io::Result<usize> {
        let mut count = 0;
        for disk in 0..self.seen.len() {
            let back = self.seen[disk].saturating_sub(1000);
            for landed in self.ask_log(disk, back)?.1 {
                count += usize::from(landed.node == node && landed.at_micros > from);
            }
        }
        Ok(count)
    }

    fn ask_log(&mut self, disk: usize, from: u64) -> io::Result<(u64, Vec<Landed>)> {
        let request = Request::Audit {
            disk: disk as u32,
            from,
        };
        match self.shelf.call(&request, LIMIT)? {
            Reply::Log(part) => Ok((part.from, part.landed)),
            other => Err(unexpected(&other)),
        }
    }

    fn read_log(&mut self, disk: usize) -> io::Result<usize> {
        let (from, landed) = self.ask_log(disk, self.seen[disk])?;
        let count = landed.len();
        self.seen[disk] = from + count as u64;
        self.verdict.written += count as u64;
        self.waiting.extend(landed);
        Ok(count)
    }

    fn read_marks(&mut self) -> io::Result<Vec<ImportMark>> {
        match self.shelf.call(&Request::Marks, LIMIT)? {
            Reply::Marks { imports, refused } => {
                self.refused = refused;
                self.verdict.refused = refused[0] + refused[1];
                Ok(imports)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn judge_writers(&mut self, imports: &[ImportMark]) {
        for landed in std::mem::take(&mut self.waiting) {
            let before = |mark: &&ImportMark| mark.at_micros < landed.at_micros;
            let owner = imports.iter().rev().find(before).map(|mark| mark.node);
            let mut double = owner.is_some_and(|owner| owner != landed.node);
            let number = landed.record.number as usize;
            let sent = landed.record.payload == payload(landed.record.number);
            if number != 0 && landed.record.is_whole() && sent {
                if self.writers.len() <= number {
                    self.writers.resize(number + 1, 0);
                }
                self.writers[number] |= 1 << landed.node as u8;
                double |= self.writers[number] == 0b11;
            }
            self.verdict.double += u64::from(double);
        }
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::other(format!("the shelf answered the judge with {reply:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client::Ack;
    use crate::shelf::log::Record;
    use crate::shelf::server::{Server, Shape};
    use failover_core::pr::PrReply;
    use std::sync::Mutex;

    fn write(shelf: &mut ShelfConnection, position: u64, number: u64) {
        let request = Request::Append {
            disk: (position % 2) as u32,
            records: vec![Record::new(position, number, payload(number))],
        };
        let reply = shelf.call(&request, LIMIT).expect("an answer");
        assert_eq!(reply, Reply::Disk(Ok(PrReply::Good)));
    }

    fn import(shelf: &mut ShelfConnection) {
        let reply = shelf.call(&Request::ImportBegins, LIMIT);
        assert_eq!(reply.expect("an answer"), Reply::Good);
    }

    /// A shelf without reservations: everybody may write, so that the judge has something to find.
    #[test]
    fn the_judge_finds_what_is_lost_and_what_two_wrote() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("shelf.sock");
        let shape = Shape {
            disks: 2,
            latency: Duration::ZERO,
            refuses_nobody: false,
        };
        let server = Server::bind(&socket, shape).expect("a shelf");
        std::thread::spawn(move || server.serve());
        let connect = |node| ShelfConnection::connect(&socket, Some((node, 0))).expect("connected");
        let (mut a, mut b) = (connect(Node::A), connect(Node::B));
        let mut judge = Judge::connect(&socket, 2).expect("connected");
        let book = Mutex::new(Book::default());
        let acknowledge = |number| {
            let ack = Ack {
                at: number,
                node: Node::A,
            };
            book.lock().expect("not poisoned").acknowledge(number, ack);
        };
        let mut audit = || {
            judge
                .audit(book.lock().expect("not poisoned"))
                .expect("audited")
        };

        import(&mut a);
        std::thread::sleep(Duration::from_millis(1));
        write(&mut a, 0, 1);
        write(&mut a, 1, 2);
        acknowledge(1);
        acknowledge(2);
        let clean = audit();
        assert_eq!((clean.acknowledged, clean.lost, clean.double), (2, 0, 0));

        acknowledge(3);
        let lost = audit();
        assert_eq!((lost.acknowledged, lost.lost), (3, 1));

        import(&mut b);
        std::thread::sleep(Duration::from_millis(1));
        write(&mut b, 2, 4);
        assert_eq!(audit().double, 0, "the new owner may write");
        write(&mut a, 3, 5);
        assert_eq!(audit().double, 1, "the old one may not");
        write(&mut b, 4, 2);
        assert_eq!(audit().double, 2, "both wrote record 2");
    }
}
