//! The client: sends a numbered record to the virtual address every millisecond and keeps the acknowledgements.
//!
//! ```text
//!   tick ──▶ new record ──▶ VIP        no answer within RETRY: sent again, until it is acknowledged
//!   VIP ──▶ acknowledgement ──▶ Book   which record, by which controller, when
//! ```
//!
//! Its neighbour table is the kernel's: only the new owner's gratuitous ARP moves it.

use super::cables::{CLIENT, VIP};
use super::datagram::{self, DATAGRAM_MAX, PORT};
use crate::shelf::now_micros;
use failover_core::ids::Node;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const TICK_MICROS: u64 = 1_000;
/// Time without an answer after which a record is sent again.
pub const RETRY_MICROS: u64 = 50_000;
/// Repeated records in one tick: a backlog must not become a burst.
const RETRIES_PER_TICK: usize = 8;
/// Unacknowledged records; beyond them no new one is sent.
const UNANSWERED_MAX: usize = 50_000;
/// Acknowledgements kept for measuring: more than two minutes.
const KEPT: usize = 150_000;

/// One acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// When it came.
    pub at: u64,
    /// Who acknowledged.
    pub node: Node,
}

/// A span without acknowledgements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// The acknowledgement before it, or the beginning of the span looked at.
    pub from: u64,
    /// The acknowledgement after it.
    pub to: u64,
}

impl Gap {
    /// Its length, microseconds.
    pub fn micros(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// All that the client knows.
#[derive(Debug, Default)]
pub struct Book {
    acks: VecDeque<Ack>,
    /// Acknowledged and not yet compared with the shelf's log.
    unaudited: Vec<u64>,
    /// When a record had to be sent again, in order.
    retries: VecDeque<u64>,
    /// When the client itself was late, and by how much.
    late: VecDeque<(u64, u64)>,
    /// Records sent so far.
    pub sent: u64,
    /// Records acknowledged so far.
    pub acknowledged: u64,
    /// Records on their way.
    pub unanswered: usize,
}

impl Book {
    pub(super) fn acknowledge(&mut self, number: u64, ack: Ack) {
        push_bounded(&mut self.acks, ack);
        self.unaudited.push(number);
        self.acknowledged += 1;
    }

    /// The longest gap that ended after `from`. A silence that still lasts counts up to `until`.
    pub fn longest_gap(&self, from: u64, until: u64) -> Gap {
        let mut longest = Gap::default();
        let mut last = None;
        for ack in self.acks.iter().filter(|ack| ack.at <= until) {
            let gap = Gap {
                from: last.unwrap_or(ack.at),
                to: ack.at,
            };
            if ack.at > from && gap.micros() > longest.micros() {
                longest = gap;
            }
            last = Some(ack.at);
        }
        let open = Gap {
            from: last.unwrap_or(from),
            to: until,
        };
        if open.micros() > longest.micros() {
            longest = open;
        }
        longest
    }

    /// Time that the service was dark after `from`: zero if no record had to be sent again, else the longest gap.
    pub fn dark(&self, from: u64, until: u64) -> u64 {
        // What was sent before `from` may have been answered late for reasons of its own.
        if self.retries.iter().any(|at| *at > from && *at <= until) {
            self.longest_gap(from, until).micros()
        } else {
            0
        }
    }

    /// The last acknowledgement by `node` that came until `until`.
    pub fn last_by(&self, node: Node, until: u64) -> Option<u64> {
        let mut newest_first = self.acks.iter().rev();
        newest_first
            .find(|ack| ack.node == node && ack.at <= until)
            .map(|ack| ack.at)
    }

    /// The first acknowledgement after `from`.
    pub fn first_after(&self, from: u64) -> Option<u64> {
        self.acks.iter().find(|ack| ack.at > from).map(|ack| ack.at)
    }

    /// The first acknowledgement by `node` after `from`.
    pub fn first_by(&self, node: Node, from: u64) -> Option<u64> {
        let mut acks = self.acks.iter();
        acks.find(|ack| ack.node == node && ack.at > from)
            .map(|ack| ack.at)
    }

    /// Longest time after `from` by which the client itself was late: no fault of the pair.
    pub fn own_lateness(&self, from: u64) -> u64 {
        let late = self.late.iter().filter(|(at, _)| *at > from);
        late.map(|(_, by)| *by).max().unwrap_or(0)
    }

    /// Takes the acknowledged numbers that weren't compared with the log yet.
    pub fn take_unaudited(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unaudited)
    }
}

fn push_bounded<T>(list: &mut VecDeque<T>, value: T) {
    if list.len() >= KEPT {
        list.pop_front();
    }
    list.push_back(value);
}

/// What the client sends as record `number`.
pub fn payload(number: u64) -> String {
    format!("record {number} of the demo")
}

/// A running client. It ends when dropped.
#[derive(Debug)]
pub struct Client {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts it in the current namespace.
    pub fn start() -> io::Result<Client> {
        let socket = UdpSocket::bind(SocketAddrV4::new(CLIENT, 0))?;
        socket.set_nonblocking(true)?;
        let book = Arc::new(Mutex::new(Book::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = Sender {
            socket,
            book: book.clone(),
            unanswered: BTreeSet::new(),
            resend: VecDeque::new(),
            next_number: 1,
        };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("client".to_owned())
            .spawn(move || sender.run(&stopped))?;
        Ok(Client {
            book,
            stop,
            thread: Some(thread),
        })
    }

    /// What it knows by now.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A client that panicked has nothing left to stop.
            let _ = thread.join();
        }
    }
}

struct Sender {
    socket: UdpSocket,
    book: Arc<Mutex<Book>>,
    unanswered: BTreeSet<u64>,
    /// When to send which record again, in order.
    resend: VecDeque<(u64, u64)>,
    next_number: u64,
}

impl Sender {
    fn run(mut self, stop: &AtomicBool) {
        super::priority::real_time(2);
        let mut next_tick = now_micros();
        while !stop.load(Ordering::Relaxed) {
            let now = now_micros();
            if now >= next_tick {
                self.note_lateness(now, now - next_tick);
                self.tick(now);
                next_tick = (next_tick + TICK_MICROS).max(now.saturating_sub(TICK_MICROS));
            }
            let left = Duration::from_micros(next_tick.saturating_sub(now_micros()));
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            // Woken early or by an error: the loop looks at the clock and at the socket anyway.
            let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None);
            self.receive();
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_lateness(&self, now: u64, by: u64) {
        if by > 5 * TICK_MICROS {
            push_bounded(&mut self.book().late, (now, by));
        }
    }

    fn tick(&mut self, now: u64) {
        let mut repeated = 0;
        while repeated < RETRIES_PER_TICK
            && let Some((due, number)) = self.resend.front().copied()
            && due <= now
        {
            self.resend.pop_front();
            if self.unanswered.contains(&number) {
                self.send(number, now);
                repeated += 1;
            }
        }
        let number = self.next_number;
        let room = self.unanswered.len() < UNANSWERED_MAX;
        if room {
            self.next_number += 1;
            self.unanswered.insert(number);
            self.send(number, now);
        }
        let unanswered = self.unanswered.len();
        let mut book = self.book();
        book.sent += u64::from(room);
        book.unanswered = unanswered;
        if repeated > 0 {
            push_bounded(&mut book.retries, now);
        }
    }

    fn send(&mut self, number: u64, now: u64) {
        let ask = datagram::encode_ask(number, &payload(number));
        // While nobody has the address the kernel may refuse; the record is sent again like any other.
        let _ = self.socket.send_to(&ask, SocketAddrV4::new(VIP, PORT));
        self.resend.push_back((now + RETRY_MICROS, number));
    }

    fn receive(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((count, _)) => {
                    let Some((number, node)) = datagram::decode_ack(&buffer[..count]) else {
                        continue;
                    };
                    if self.unanswered.remove(&number) {
                        let at = now_micros();
                        self.book().acknowledge(number, Ack { at, node });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error told late says nothing about the datagrams behind it.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(acks: &[u64], retries: &[u64]) -> Book {
        let ack = |at: &u64| Ack {
            at: *at,
            node: Node::A,
        };
        Book {
            acks: acks.iter().map(ack).collect(),
            retries: retries.iter().copied().collect(),
            ..Book::default()
        }
    }

    #[test]
    fn the_longest_gap_is_the_one_that_ended_after_the_event() {
        let book = book(&[0, 900, 1000, 1010, 1500, 1510], &[1200]);
        assert_eq!(
            book.longest_gap(1000, 1510),
            Gap {
                from: 1010,
                to: 1500
            }
        );
        assert_eq!(
            book.longest_gap(1000, 3000),
            Gap {
                from: 1510,
                to: 3000
            }
        );
        assert_eq!(book.dark(1000, 1510), 490);
        assert_eq!(book.dark(1205, 1510), 0, "no record was sent again since");
    }
}
