//! The running pair: its processes and cables, and what the demo does to them.

use super::cables::Cables;
use super::client::Client;
use super::judge::{Judge, Verdict};
use super::namespaces::NetworkNamespace;
use super::narrator::Narrator;
use super::observer::Observer;
use super::place::Place;
use super::procs::Process;
use super::watch::Watch;
use crate::shelf::client::ShelfConnection;
use crate::shelf::now_micros;
use crate::shelf::server::Shape;
use crate::shelf::wire::{Reply, Request};
use failover_api::{HistoryRecord, StateReport, Status};
use failover_core::ids::Node;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// Time that a machine takes from its reset to the start of its daemon: short, so that the demo is.
const BOOT_MICROS: u64 = 200_000;
const STEP: Duration = Duration::from_millis(2);
/// Time that a process may take to make its socket.
const START_MICROS: u64 = 5_000_000;
const SHELF_LIMIT: Duration = Duration::from_secs(2);
/// The client's newest acknowledgement may be this old in a whole pair.
const FRESH_MICROS: u64 = 50_000;
/// A look at a daemon may be this old.
const LOOK_MICROS: u64 = 200_000;

/// Both controllers.
pub const NODES: [Node; 2] = [Node::A, Node::B];

/// Why the demo stops early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ctrl-C or SIGTERM.
    Signal,
    /// Something that must not happen; the sentence says what.
    Broken(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Broken(error.to_string())
    }
}

#[derive(Default)]
struct Machine {
    namespace: Option<NetworkNamespace>,
    host: Option<Process>,
    daemon: Option<Process>,
    boot_at: Option<u64>,
    resets: u64,
    /// Its daemon was told to end.
    may_end: bool,
}

/// The pair with everything around it.
pub struct Pair {
    /// Where everything lies.
    pub place: Place,
    /// The client on the clients' network.
    pub client: Client,
    /// Who announced the virtual address when.
    pub observer: Observer,
    /// Tells the user.
    pub narrator: Narrator,
    shape: Shape,
    cables: Cables,
    machines: [Machine; 2],
    watches: [Watch; 2],
    judge: Judge,
    driver: ShelfConnection,
    resets: UnixDatagram,
    signals: SignalFd,
    /// Killed last: it outlives the controllers.
    _shelf: Process,
}

impl Pair {
    /// Lays the cables, starts shelf, client and observer; the controllers are still off.
    pub fn lay_out(place: Place, shape: Shape, narrator: Narrator) -> Result<Pair, Stop> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            mask.add(signal);
        }
        // Blocked before any thread exists, so that the descriptor gets them.
        mask.thread_block().map_err(io::Error::from)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags).map_err(io::Error::from)?;
        let cables = Cables::lay()?;
        let mut words = vec![
            "shelf".to_owned(),
            place.shelf().display().to_string(),
            shape.disks.to_string(),
            shape.latency.as_micros().to_string(),
        ];
        if shape.refuses_nobody {
            words.push("--refuses-nobody".to_owned());
        }
        let shelf = Process::spawn(&words, None, &place.dir().join("shelf.log"))?;
        wait_for_socket(&place.shelf())?;
        let resets = UnixDatagram::bind(place.reset())?;
        resets.set_nonblocking(true)?;
        Ok(Pair {
            client: Client::start()?,
            observer: Observer::start()?,
            watches: [
                Watch::start(Node::A, &place.rpc(Node::A))?,
                Watch::start(Node::B, &place.rpc(Node::B))?,
            ],
            judge: Judge::connect(&place.shelf(), shape.disks)?,
            driver: ShelfConnection::connect(&place.shelf(), None)?,
            machines: Default::default(),
            place,
            narrator,
            shape,
            cables,
            resets,
            signals,
            _shelf: shelf,
        })
    }

    /// What the shelf is like.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    // ---- machines ----------------------------------------------------------------------------------------------

    /// Switches a controller on: new network interfaces, empty runtime folder, host, daemon.
    pub fn boot(&mut self, node: Node) -> Result<(), Stop> {
        self.machine(node).boot_at = None;
        self.narrator.booted(node);
        self.cables.unplug(node)?;
        let namespace = NetworkNamespace::new()?;
        self.cables.plug(node, &namespace)?;
        self.place.clear_for_boot(node)?;
        self.shelf(&Request::Mend { node })?;
        let host = Process::spawn(
            &[
                "host".to_owned(),
                node.to_string(),
                self.place.dir().display().to_string(),
                self.shape.disks.to_string(),
            ],
            Some(&namespace),
            &self.place.node_dir(node).join("host.log"),
        )?;
        wait_for_socket(&self.place.host(node))?;
        let machine = self.machine(node);
        machine.namespace = Some(namespace);
        machine.host = Some(host);
        self.start_daemon(node)
    }

    /// Starts a controller's daemon.
    pub fn start_daemon(&mut self, node: Node) -> Result<(), Stop> {
        let log = self.place.node_dir(node).join("daemon.log");
        let arguments = [
            "node".to_owned(),
            node.to_string(),
            self.place.dir().display().to_string(),
        ];
        let machine = &mut self.machines[node as usize];
        let daemon = Process::spawn(&arguments, machine.namespace.as_ref(), &log)?;
        machine.daemon = Some(daemon);
        machine.may_end = false;
        Ok(())
    }

    /// Power goes: processes, disk paths and cables, all at once.
    pub fn power_off(&mut self, node: Node) -> Result<(), Stop> {
        let machine = self.machine(node);
        let mut gone: Vec<Process> = [machine.daemon.take(), machine.host.take()]
            .into_iter()
            .flatten()
            .collect();
        for process in &mut gone {
            process.signal(Signal::SIGKILL);
        }
        machine.boot_at = None;
        self.shelf(&Request::Cut { node })?;
        self.cables.power_off(node)?;
        drop(gone);
        self.machine(node).namespace = None;
        Ok(())
    }

    /// Sends a signal to a controller's daemon.
    pub fn signal_daemon(&mut self, node: Node, signal: Signal) {
        self.machine(node).may_end |= signal == Signal::SIGTERM;
        if let Some(daemon) = &mut self.machine(node).daemon {
            daemon.signal(signal);
        }
    }

    /// Kills a controller's daemon, and nothing else of it.
    pub fn kill_daemon(&mut self, node: Node) {
        // Dropping a process kills it and waits for its end.
        self.machine(node).daemon = None;
    }

    /// Whether the daemon's process has ended.
    pub fn daemon_ended(&mut self, node: Node) -> bool {
        let daemon = self.machine(node).daemon.as_mut();
        daemon.is_some_and(Process::has_ended)
    }

    /// Whether a controller has power.
    pub fn is_on(&self, node: Node) -> bool {
        self.machines[node as usize].namespace.is_some()
    }

    /// Whether a controller's daemon was started and not killed since.
    pub fn has_daemon(&self, node: Node) -> bool {
        self.machines[node as usize].daemon.is_some()
    }

    /// Why a daemon ended that should not have: the last line of its log.
    fn last_words(&self, node: Node) -> String {
        let log = self.place.node_dir(node).join("daemon.log");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last = text.lines().last().unwrap_or("it said nothing");
        format!(
            "the daemon of {node} ended by itself: {last} ({})",
            log.display()
        )
    }

    /// Cuts or mends a heartbeat link.
    pub fn set_link(&mut self, link: usize, up: bool) -> Result<(), Stop> {
        Ok(self.cables.set_link(link, up)?)
    }

    /// Resets that a controller asked for so far.
    pub fn resets(&self, node: Node) -> u64 {
        self.machines[node as usize].resets
    }

    fn machine(&mut self, node: Node) -> &mut Machine {
        &mut self.machines[node as usize]
    }

    fn shelf(&mut self, request: &Request) -> Result<(), Stop> {
        match self.driver.call(request, SHELF_LIMIT)? {
            Reply::Good => Ok(()),
            other => Err(Stop::Broken(format!("the shelf answered {other:?}"))),
        }
    }

    // ---- time goes by --------------------------------------------------------------------------------------------

    /// Lets a moment pass: resets are carried out, machines boot, news are told.
    pub fn step(&mut self) -> Result<(), Stop> {
        let signal = self.signals.read_signal().map_err(io::Error::from)?;
        if signal.is_some() {
            return Err(Stop::Signal);
        }
        let mut text = [0; 512];
        while let Ok(count) = self.resets.recv(&mut text) {
            let asked = String::from_utf8_lossy(&text[..count]).into_owned();
            let node = if asked.starts_with('B') {
                Node::B
            } else {
                Node::A
            };
            let why = asked.get(2..).unwrap_or_default();
            self.narrator.say(node, &format!("resets itself: {why}"));
            self.power_off(node)?;
            let machine = self.machine(node);
            machine.boot_at = Some(now_micros() + BOOT_MICROS);
            machine.resets += 1;
        }
        for node in NODES {
            if self.daemon_ended(node) && !self.machine(node).may_end {
                return Err(Stop::Broken(self.last_words(node)));
            }
            let due = self.machines[node as usize].boot_at;
            if due.is_some_and(|at| at <= now_micros()) {
                self.narrator.say(node, "boots");
                self.boot(node)?;
            }
            self.narrator
                .tell_history(node, &self.watches[node as usize]);
        }
        std::thread::sleep(STEP);
        Ok(())
    }

    /// Lets time pass until `condition` holds.
    pub fn wait<F>(&mut self, limit_ms: u64, what: &str, mut condition: F) -> Result<(), Stop>
    where
        F: FnMut(&mut Pair) -> bool,
    {
        let deadline = now_micros() + limit_ms * 1000;
        loop {
            self.step()?;
            if condition(self) {
                return Ok(());
            }
            if now_micros() >= deadline {
                let states = self.describe();
                return Err(Stop::Broken(format!(
                    "{what}: not within {limit_ms} ms ({states})"
                )));
            }
        }
    }

    /// Lets `ms` milliseconds pass.
    pub fn pass(&mut self, ms: u64) -> Result<(), Stop> {
        let end = now_micros() + ms * 1000;
        while now_micros() < end {
            self.step()?;
        }
        Ok(())
    }

    // ---- what can be seen --------------------------------------------------------------------------------------

    /// What a daemon said lately.
    pub fn report(&self, node: Node) -> Option<StateReport> {
        let view = self.watches[node as usize].view()?;
        (now_micros().saturating_sub(view.at) < LOOK_MICROS).then_some(view.report)
    }

    /// The controller that says it is MASTER, if exactly one does.
    pub fn master(&self) -> Option<Node> {
        let is_master = |node: &Node| {
            let report = self.report(*node);
            report.is_some_and(|report| report.status == Status::Master)
        };
        let masters: Vec<Node> = NODES.into_iter().filter(is_master).collect();
        match masters[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// One MASTER that answers the client, and one BACKUP that could take over at once.
    pub fn is_whole(&self) -> bool {
        let Some(master) = self.master() else {
            return false;
        };
        let (Some(active), Some(standby)) = (self.report(master), self.report(master.other()))
        else {
            return false;
        };
        let peer_ready = active.peer.is_some_and(|peer| peer.heard && peer.eligible);
        let links = |report: &StateReport| {
            let age = |link: &failover_api::LinkReport| link.age_ms.is_some_and(|age| age < 200);
            report.links.iter().all(age)
        };
        let links_heard = links(&standby)
            && active
                .links
                .iter()
                .all(|link| link.age_ms.is_some_and(|age| age < 200));
        let now = now_micros();
        let book = self.client.book();
        let answered = book.last_by(master, now);
        let served = answered.is_some_and(|at| now.saturating_sub(at) < FRESH_MICROS);
        standby.status == Status::Backup
            && standby.eligible
            && peer_ready
            && links_heard
            && served
            && book.unanswered < 100
    }

    /// Transitions of both controllers after `from`, in order.
    pub fn history_since(&self, from: u64) -> Vec<HistoryRecord> {
        let of = |watch: &Watch| watch.history_since(from);
        let mut records: Vec<HistoryRecord> = self.watches.iter().flat_map(of).collect();
        records.sort_by_key(|record| record.at_micros);
        records
    }

    /// Looks so far at which a controller served without a lease.
    pub fn lapses(&self) -> u64 {
        self.watches.iter().map(Watch::lapses).sum()
    }

    /// Asks a daemon for something, apart from all else.
    pub fn call(&self, node: Node, method: &'static str) -> super::watch::Apart {
        self.watches[node as usize].call_apart(method)
    }

    /// Compares what is acknowledged by now with what is on the disks.
    pub fn audit(&mut self) -> Result<Verdict, Stop> {
        Ok(self.judge.audit(self.client.book())?)
    }

    /// Writes of `node` that the disks accepted after `from`.
    pub fn landed_since(&mut self, node: Node, from: u64) -> Result<usize, Stop> {
        Ok(self.judge.landed_since(node, from)?)
    }

    fn describe(&self) -> String {
        let one = |node: Node| match self.report(node) {
            Some(report) => {
                let blockers = match report.eligible || report.status == Status::Master {
                    true => String::new(),
                    false => format!(", not eligible: {}", report.blockers.join("; ")),
                };
                format!("{node} is {} ({}){blockers}", report.status, report.state)
            }
            None => format!("{node} doesn't answer"),
        };
        let unanswered = self.client.book().unanswered;
        format!(
            "{}; {}; {unanswered} records unanswered; logs in {}",
            one(Node::A),
            one(Node::B),
            self.place.dir().display()
        )
    }
}

fn wait_for_socket(path: &Path) -> Result<(), Stop> {
    let deadline = now_micros() + START_MICROS;
    while !path.exists() {
        if now_micros() > deadline {
            let shown = path.display();
            return Err(Stop::Broken(format!(
                "a process of the demo didn't start: {shown} is missing; its log lies beside it"
            )));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
