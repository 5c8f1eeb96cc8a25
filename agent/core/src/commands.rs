//! What operators ask for, and when they are answered.

use crate::action::{Action, Entry, Refusal, Work};
use crate::controller::{Controller, Request, Wants, libc_errno};
use crate::event::Command;
use crate::ids::RequestId;
use crate::ops::Job;
use crate::settings::{Settings, SettingsChange, SettingsVersion};
use crate::states::State;
use crate::time::{Instant, ms};

impl Controller {
    pub(crate) fn command(&mut self, now: Instant, request: RequestId, command: Command) {
        match command {
            Command::BecomePassive => self.become_passive(now, request, Wants::PeerServes),
            Command::ForceMaster => self.force_master(now, request),
            Command::Update(change) => self.update(now, request, change),
        }
    }

    fn force_master(&mut self, now: Instant, request: RequestId) {
        match self.state {
            State::Active => self.reply(request, Ok(())),
            State::Electing | State::Standby | State::Held | State::Yielding => {
                self.force = Some(now);
                let until = now + ms(self.config.timing.import_ms + self.config.timing.services_ms);
                self.requests.push(Request {
                    id: request,
                    wants: Wants::WeServe,
                    until,
                });
            }
            State::Starting
            | State::Adopting
            | State::Surveying
            | State::FencingArbiters
            | State::FencingRest
            | State::Importing
            | State::StartingServices
            | State::Announcing
            | State::Failed
            | State::RemovingVips
            | State::StoppingServices
            | State::Exporting
            | State::WritingHandover
            | State::HandedOver
            | State::Reverting
            | State::Restarting
            | State::Stopping
            | State::Halted => {
                let reason = format!(
                    "this controller is {} now; ask again when it rests",
                    self.state.name()
                );
                self.refuse(request, libc_errno::EBUSY, reason);
            }
        }
    }

    fn update(&mut self, now: Instant, request: RequestId, change: SettingsChange) {
        let moves =
            change.disabled == Some(true) && change.master == Some(self.config.node.other());
        if moves && self.state == State::Active && self.config.has_peer {
            self.become_passive(now, request, Wants::PeerServesThen(change));
        } else {
            self.set(now, Some(request), change);
        }
    }

    /// Makes settings and tells the peer; the request is answered once they are durable here.
    pub(crate) fn set(&mut self, now: Instant, request: Option<RequestId>, change: SettingsChange) {
        let old = self.settings;
        let version = SettingsVersion {
            epoch: self.seen.max(self.epoch).0.max(old.version.epoch),
            sequence: old.version.sequence.wrapping_add(1),
            by: self.config.node,
        };
        self.settings = Settings {
            version,
            disabled: change.disabled.unwrap_or(old.disabled),
            master: change.master.unwrap_or(old.master),
            timeout_s: change.timeout_s.unwrap_or(old.timeout_s),
        };
        self.beat_now = true;
        self.run(
            now,
            Job::RecordSettings(request),
            Work::Record(Entry::Settings(self.settings)),
        );
    }

    pub(crate) fn refuse(&mut self, request: RequestId, errno: i32, reason: String) {
        self.reply(request, Err(Refusal { errno, reason }));
    }

    pub(crate) fn reply(&mut self, request: RequestId, reply: Result<(), Refusal>) {
        self.out.push(Action::Reply { request, reply });
    }

    pub(crate) fn poll_requests(&mut self, now: Instant) {
        let dead = ms(self.config.timing.dead_ms);
        let peer_serves = self.peer.alive(now, dead)
            && self.peer.beat.as_ref().is_some_and(|beat| beat.serving)
            && !self.state.owns();
        let mut waiting = std::mem::take(&mut self.requests);
        waiting.retain(|request| {
            let done = match request.wants {
                Wants::PeerServes | Wants::PeerServesThen(_) => peer_serves,
                Wants::WeServe => self.state == State::Active,
            };
            if request.wants == Wants::WeServe && (done || now >= request.until) {
                self.force = None;
            }
            if done {
                match request.wants {
                    Wants::PeerServesThen(change) => self.set(now, Some(request.id), change),
                    Wants::PeerServes | Wants::WeServe => self.reply(request.id, Ok(())),
                }
                return false;
            }
            let reverted = request.wants != Wants::WeServe
                && self.state == State::Active
                && self.handover.reverted;
            if reverted {
                let reason = format!("the handover was reverted: {}", self.handover.failure);
                self.refuse(request.id, libc_errno::EFAULT, reason);
                return false;
            }
            if now >= request.until {
                let reason = format!(
                    "not reached in time; this controller is {}: {}",
                    self.state.name(),
                    self.why
                );
                self.refuse(request.id, libc_errno::ETIMEDOUT, reason);
                return false;
            }
            true
        });
        waiting.append(&mut self.requests);
        self.requests = waiting;
        if let Some(until) = self.requests.iter().map(|request| request.until).min() {
            self.wake_at(until, "request");
        }
    }
}
