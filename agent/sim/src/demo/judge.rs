//! Judges the run: the client's acknowledgements against the shelf's own log.

use super::client::Book;
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
            if number != 0 && landed.record.is_whole() {
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
