//! What we believe of the peer: who it is, when it was last heard on each link, which of our beats it has echoed.
//!
//! A run of the peer counts only after it echoed a recent beat of this very run of ours: a recorded beat of an
//! earlier run can't do that, so a replay is never taken for life.

use crate::beat::{Beat, Echo, Role};
use crate::ids::{LinkId, Session};
use crate::memory::{Visitor, Walk as _, walk_beat};
use crate::time::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Beats behind the newest one that still count as life on a slower link.
const LINK_LAG_MAX: u64 = 20;
/// Own beats whose sending times are remembered.
const SENT_MAX: usize = 64;

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Newer than all before: its statements count.
    News,
    /// A sign of life, but an older or known statement.
    Life,
    /// A run of the peer that hasn't proved itself: answer at once.
    Stranger,
    /// Replayed, from our own node, or too old: nothing changes.
    Refused,
}

/// One link.
#[derive(Clone, Copy, Debug, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Receive stamp of its last valid beat, shifted by our own stalls.
    pub heard: Option<Instant>,
    /// It has a carrier.
    pub up: bool,
    seq: u64,
}

/// The peer.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// The newest beat of its confirmed run.
    pub beat: Option<Beat>,
    /// Each link.
    pub links: Vec<Link>,
    /// Receive stamp of the newest sign of life on any link, shifted by our own stalls.
    pub heard: Option<Instant>,
    /// When the newest echo of one of our beats came in.
    pub echo_received: Option<Instant>,
    /// When the newest beat that it echoed was sent.
    pub echo_proof: Option<Instant>,
    /// When the newest beat was sent that it echoed in a role without a long lease: it holds none until it has been
    /// alone for `alone_after_ms`.
    pub plain_at: Option<Instant>,
    /// Number of the newest beat that it echoed.
    pub echo_seq: u64,
    /// When we last sent an echo that it hadn't had before.
    pub echo_sent: Option<Instant>,
    /// Beats refused since start.
    pub refused: u64,
    stranger: Option<Echo>,
    echoed: Option<Echo>,
    sent: Vec<(u64, Instant)>,
}

impl Peer {
    /// A peer of which nothing is known.
    pub fn new(links: u8) -> Peer {
        let link = Link {
            heard: None,
            up: true,
            seq: 0,
        };
        Peer {
            beat: None,
            links: vec![link; usize::from(links)],
            heard: None,
            echo_received: None,
            echo_proof: None,
            plain_at: None,
            echo_seq: 0,
            echo_sent: None,
            refused: 0,
            stranger: None,
            echoed: None,
            sent: Vec::new(),
        }
    }

    /// Takes a beat that came in on `link`; `session` and `seq` are ours.
    pub fn hear(
        &mut self,
        now: Instant,
        link: LinkId,
        received: Instant,
        beat: &Beat,
        session: Session,
        seq: u64,
    ) -> Heard {
        let heard = self.judge(link, beat, session, seq);
        match heard {
            Heard::Refused => self.refused += 1,
            Heard::Stranger => {
                self.stranger = Some(Echo {
                    session: beat.session,
                    seq: beat.seq,
                });
            }
            Heard::News | Heard::Life => {
                let received = received.min(now);
                self.heard = self.heard.max(Some(received));
                if let Some(state) = self.links.get_mut(usize::from(link.0)) {
                    state.seq = state.seq.max(beat.seq);
                    state.heard = state.heard.max(Some(received));
                }
                self.take_echo(now, beat, session);
                if heard == Heard::News {
                    self.beat = Some(beat.clone());
                }
            }
        }
        heard
    }

    fn judge(&mut self, link: LinkId, beat: &Beat, session: Session, seq: u64) -> Heard {
        let Some(state) = self.links.get(usize::from(link.0)) else {
            return Heard::Refused;
        };
        let known = self.beat.as_ref().map(|known| (known.session, known.seq));
        if let Some((known_session, known_seq)) = known
            && known_session == beat.session
        {
            return if beat.seq <= state.seq || beat.seq.saturating_add(LINK_LAG_MAX) < known_seq {
                Heard::Refused
            } else if beat.seq > known_seq {
                Heard::News
            } else {
                Heard::Life
            };
        }
        let recent = |echo: Echo| {
            echo.session == session
                && echo.seq <= seq
                && echo.seq.saturating_add(SENT_MAX as u64) >= seq
        };
        if beat.echo.is_some_and(recent) {
            // A new run has proved itself: it has heard this run of ours.
            for link in &mut self.links {
                link.seq = 0;
            }
            self.echoed = None;
            self.stranger = None;
            return Heard::News;
        }
        Heard::Stranger
    }

    fn take_echo(&mut self, now: Instant, beat: &Beat, session: Session) {
        let Some(echo) = beat
            .echo
            .filter(|echo| echo.session == session && echo.seq > self.echo_seq)
        else {
            return;
        };
        let Some((_, sent)) = self.sent.iter().find(|(seq, _)| *seq == echo.seq) else {
            return;
        };
        self.echo_seq = echo.seq;
        self.echo_received = Some(now);
        self.echo_proof = self.echo_proof.max(Some(*sent));
        // Whoever adopts carries over the lease that it found.
        if !matches!(
            beat.role,
            Role::Starting | Role::Restarting | Role::Importing
        ) {
            self.plain_at = self.echo_proof;
        }
    }

    /// The echo for our beat number `seq`, sent now. A taker passes `fresh: false`: its echo stays as it was, so that
    /// the owner's lease is not renewed by the one who is taking over. With `stranger` it goes to the run that hasn't
    /// proved itself yet.
    pub fn echo(&mut self, now: Instant, seq: u64, fresh: bool, stranger: bool) -> Option<Echo> {
        if self.sent.len() == SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push((seq, now));
        if stranger && let Some(echo) = self.stranger.take() {
            self.echo_sent = Some(now);
            return Some(echo);
        }
        if !fresh {
            return self.echoed;
        }
        let newest = self.beat.as_ref().map(|beat| Echo {
            session: beat.session,
            seq: beat.seq,
        });
        if newest != self.echoed {
            self.echo_sent = Some(now);
            self.echoed = newest;
        }
        self.echoed
    }

    /// Whether it was heard on some link within `dead`.
    pub fn alive(&self, now: Instant, dead: Duration) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) < dead)
    }

    /// Our own process stood still for `gap`: that time is not the peer's silence.
    pub fn stalled(&mut self, now: Instant, gap: Duration) {
        self.heard = self.heard.map(|heard| (heard + gap).min(now));
        for link in &mut self.links {
            link.heard = link.heard.map(|heard| (heard + gap).min(now));
        }
    }

    /// Its beats that may be echoed yet.
    pub(crate) fn known_beats(&self) -> impl Iterator<Item = Echo> + '_ {
        let newest = self.beat.iter().map(|beat| Echo {
            session: beat.session,
            seq: beat.seq,
        });
        newest.chain([self.stranger, self.echoed].into_iter().flatten())
    }

    pub(crate) fn walk(&mut self, visitor: &mut impl Visitor, run: Session) {
        let Peer {
            beat,
            links,
            heard,
            echo_received,
            echo_proof,
            plain_at,
            echo_seq,
            echo_sent,
            refused,
            stranger,
            echoed,
            sent,
        } = self;
        // The links count the beats of the run that counts.
        let other = beat.as_ref().map_or(Session(0), |beat| beat.session);
        beat.iter_mut().for_each(|beat| walk_beat(visitor, beat));
        for Link { heard, up: _, seq } in links {
            visitor.maybe([heard]);
            visitor.seq(other, seq);
        }
        visitor.maybe([heard, echo_received, echo_proof, plain_at, echo_sent]);
        *refused = 0;
        for echo in [stranger, echoed].into_iter().flatten() {
            visitor.seq(echo.session, &mut echo.seq);
        }
        let heard = *echo_seq;
        sent.retain(|(seq, _)| *seq > heard && visitor.may_be_echoed(run, *seq));
        visitor.seq(run, echo_seq);
        for (seq, at) in sent {
            visitor.seq(run, seq);
            visitor.instant(at);
        }
    }
}
