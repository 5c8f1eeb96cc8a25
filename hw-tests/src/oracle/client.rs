//! The client: sends numbered records at a steady rate and keeps every acknowledgement with its times.
//!
//! One thread and one connection, so that the order in which records go out is beyond doubt. When the oldest open record
//! has no answer for `ack_ms`, or the connection breaks, a new connection sends all open ones again, in their order.

use super::record::{ACK_BYTES, Ack, Record};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the client does.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where the recorder answers.
    pub to: SocketAddr,
    /// Number of the run; never used before.
    pub run: u64,
    /// Interval of new records.
    pub interval: Duration,
    /// Open records at most; no new ones are made meanwhile.
    pub open_max: usize,
    /// Time without an answer after which the connection is given up.
    pub ack: Duration,
    /// Time that a new connection may take.
    pub connect: Duration,
    /// Time to wait for open records once the end was asked for.
    pub drain: Duration,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Records made.
    pub sent: u64,
    /// Records acknowledged.
    pub acknowledged: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// A record without an answer.
#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    first_sent: Instant,
    times: u32,
}

/// A connection with what waits on either side of it.
struct Line {
    stream: TcpStream,
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    /// When something was last answered, or the oldest open record went out.
    heard: Instant,
}

/// One run. What happens is written to `notes`, a line each, times in microseconds since 1970:
/// `ack NUMBER FIRST-SENT ANSWERED TIMES-SENT WRITER` and `event TIME TEXT`.
pub struct Client<W: Write> {
    order: Order,
    notes: W,
    began: (Instant, SystemTime),
    open: VecDeque<Open>,
    line: Option<Line>,
    summary: Summary,
    next_try: Instant,
}

impl<W: Write> Client<W> {
    /// Nothing is sent before `run`.
    pub fn new(order: Order, notes: W) -> Client<W> {
        let now = Instant::now();
        Client {
            order,
            notes,
            began: (now, SystemTime::now()),
            open: VecDeque::new(),
            line: None,
            summary: Summary::default(),
            next_try: now,
        }
    }

    /// Sends until `ended` says so, then waits for what is open.
    pub fn run(mut self, ended: impl Fn() -> bool) -> io::Result<Summary> {
        let mut next = Instant::now();
        let mut drain_until = None;
        loop {
            let now = Instant::now();
            if drain_until.is_none() && ended() {
                drain_until = Some(now + self.order.drain);
            }
            match drain_until {
                None if now >= next && self.open.len() < self.order.open_max => {
                    self.make_record(now);
                    // What a standstill swallowed isn't made up for.
                    next = (next + self.order.interval).max(now);
                }
                None => {}
                Some(until) if self.open.is_empty() || now >= until => {
                    self.notes.flush()?;
                    return Ok(self.summary);
                }
                Some(_) => {}
            }
            if self.line.is_none() && now >= self.next_try {
                self.connect()?;
            }
            if let Err(why) = self.exchange() {
                self.line = None;
                self.event(&format!("connection lost: {why}"))?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn make_record(&mut self, now: Instant) {
        self.summary.sent += 1;
        let mut open = Open {
            number: self.summary.sent,
            first_sent: now,
            times: 0,
        };
        if let Some(line) = &mut self.line {
            if self.open.is_empty() {
                line.heard = now;
            }
            open.times = 1;
            line.to_send.extend(self.order.record(open.number));
        }
        self.open.push_back(open);
    }

    fn connect(&mut self) -> io::Result<()> {
        let stream = match TcpStream::connect_timeout(&self.order.to, self.order.connect) {
            Ok(stream) => stream,
            Err(_) => {
                self.next_try = Instant::now() + Duration::from_millis(20);
                return Ok(());
            }
        };
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut to_send = VecDeque::new();
        for open in &mut self.open {
            open.times += 1;
            to_send.extend(self.order.record(open.number));
        }
        self.line = Some(Line {
            stream,
            to_send,
            received: Vec::new(),
            heard: Instant::now(),
        });
        self.summary.connections += 1;
        self.event("connected")
    }

    /// Sends and receives what goes without waiting. An error is why the connection can't be used any more.
    fn exchange(&mut self) -> Result<(), String> {
        let Some(line) = &mut self.line else {
            return Ok(());
        };
        line.send().map_err(|error| error.to_string())?;
        let more = line.receive().map_err(|error| error.to_string())?;
        let mut acks = Vec::new();
        while line.received.len() >= ACK_BYTES {
            let bytes: Vec<u8> = line.received.drain(..ACK_BYTES).collect();
            acks.push(Ack::decode(&bytes).ok_or("an answer that is no acknowledgement")?);
        }
        if !acks.is_empty() {
            line.heard = Instant::now();
        }
        let silent = !self.open.is_empty() && line.heard.elapsed() >= self.order.ack;
        for ack in acks {
            self.keep(ack).map_err(|error| error.to_string())?;
        }
        match (more, silent) {
            (false, _) => Err("the other side closed it".to_owned()),
            (true, true) => Err(format!("no answer for {} ms", self.order.ack.as_millis())),
            (true, false) => Ok(()),
        }
    }

    fn keep(&mut self, ack: Ack) -> io::Result<()> {
        if ack.run != self.order.run {
            return Err(io::Error::other("an acknowledgement of another run"));
        }
        // Answers come in order; one that isn't open any more was sent twice over one connection and answered twice.
        let Some(at) = self.open.iter().position(|open| open.number == ack.number) else {
            return Ok(());
        };
        let Some(open) = self.open.remove(at) else {
            return Ok(());
        };
        self.summary.acknowledged += 1;
        let (sent, now) = (self.micros(open.first_sent), self.micros(Instant::now()));
        writeln!(
            self.notes,
            "ack {} {sent} {now} {} {}",
            ack.number, open.times, ack.writer
        )?;
        self.notes.flush()
    }

    fn event(&mut self, text: &str) -> io::Result<()> {
        let now = self.micros(Instant::now());
        writeln!(self.notes, "event {now} {text}")?;
        self.notes.flush()
    }

    /// Microseconds since 1970 of a moment, by a clock that nobody sets meanwhile.
    fn micros(&self, moment: Instant) -> u128 {
        let began = self.began.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        (began + moment.duration_since(self.began.0)).as_micros()
    }
}

impl Order {
    fn record(&self, number: u64) -> impl Iterator<Item = u8> + use<> {
        let record = Record {
            run: self.run,
            number,
            writer: 0,
        };
        record.encode().into_iter()
    }
}

impl Line {
    fn send(&mut self) -> io::Result<()> {
        while !self.to_send.is_empty() {
            let (front, _) = self.to_send.as_slices();
            match self.stream.write(front) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.to_send.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what has arrived; `false` once the other side has closed.
    fn receive(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(length) => self.received.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Run and acknowledged numbers of the notes that a client left: a torn last line was never acted on.
pub fn acknowledged(notes: &str) -> Vec<u64> {
    let whole = notes.rfind('\n').map_or("", |end| &notes[..end]);
    whole
        .lines()
        .filter_map(|line| line.strip_prefix("ack ")?.split(' ').next()?.parse().ok())
        .collect()
}
