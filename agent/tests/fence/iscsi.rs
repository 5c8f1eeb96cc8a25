//! The smallest iSCSI initiator (RFC 7143) that carries one command after the other: a real target on loopback
//! becomes a path of the daemon's fence.

use failoverd::adapters::ports::{Data, PortError, ScsiEnd, ScsiPort};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Basic header segment.
const HEADER: usize = 48;
/// What one data segment may have; said at login.
const SEGMENT_MAX: usize = 262_144;
/// Messages that may come before a command's response.
const MESSAGES_MAX: usize = 1000;

/// What was asked and answered: command, parameter list, status, sense data, answer.
pub type Exchange = (Vec<u8>, Vec<u8>, u8, Vec<u8>, Vec<u8>);

/// Where a logical unit is, and as whom to log in.
#[derive(Clone, Debug)]
pub struct Place {
    pub portal: SocketAddr,
    pub target: String,
    pub lun: u8,
    pub initiator: String,
    /// Distinguishes the sessions of one initiator: a path each.
    pub session: u8,
}

pub struct Session {
    stream: TcpStream,
    lun: u8,
    task: u32,
    command: u32,
    status: u32,
    pub log: Arc<Mutex<Vec<Exchange>>>,
}

fn failed(why: impl std::fmt::Display) -> PortError {
    PortError::Failed(why.to_string())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl Session {
    pub fn login(place: &Place, log: Arc<Mutex<Vec<Exchange>>>) -> Result<Session, PortError> {
        let stream = TcpStream::connect(place.portal).map_err(failed)?;
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut session = Session {
            stream,
            lun: place.lun,
            task: 1,
            command: 1,
            status: 0,
            log,
        };
        // Every key at once: LIO asks for the answer to each that it isn't told.
        let text = format!(
            "InitiatorName={}\0TargetName={}\0SessionType=Normal\0HeaderDigest=None\0DataDigest=None\0\
             MaxRecvDataSegmentLength={SEGMENT_MAX}\0InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=65536\0\
             MaxBurstLength={SEGMENT_MAX}\0MaxOutstandingR2T=1\0ErrorRecoveryLevel=0\0MaxConnections=1\0\
             DefaultTime2Wait=2\0DefaultTime2Retain=0\0IFMarker=No\0OFMarker=No\0DataPDUInOrder=Yes\0\
             DataSequenceInOrder=Yes\0",
            place.initiator, place.target
        );
        let mut text = text.into_bytes();
        for _ in 0..8 {
            let mut header = [0; HEADER];
            // Immediate login request; from the operational stage to the full feature phase.
            (header[0], header[1]) = (0x43, 0x87);
            // ISID: a random one. LIO tells two sessions apart by its first four bytes alone.
            (header[8], header[9], header[13]) = (0x80, place.session, place.session);
            header[19] = 1;
            header[24..28].copy_from_slice(&session.command.to_be_bytes());
            header[28..32].copy_from_slice(&session.status.to_be_bytes());
            session.send(header, &text)?;
            let (header, _) = session.receive()?;
            if header[0] & 0x3f != 0x23 || header[36] != 0 {
                let (class, detail) = (header[36], header[37]);
                return Err(failed(format!("login refused: {class:02x}{detail:02x}")));
            }
            session.status = be32(&header, 24).wrapping_add(1);
            if header[1] & 0x83 == 0x83 {
                return Ok(session);
            }
            text.clear();
        }
        Err(failed("the login doesn't end"))
    }

    fn send(&mut self, mut header: [u8; HEADER], data: &[u8]) -> Result<(), PortError> {
        header[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut message = header.to_vec();
        message.extend(data);
        message.resize(HEADER + data.len().div_ceil(4) * 4, 0);
        self.stream.write_all(&message).map_err(failed)
    }

    fn receive(&mut self) -> Result<([u8; HEADER], Vec<u8>), PortError> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).map_err(failed)?;
        let len = be32(&[0, header[5], header[6], header[7]], 0) as usize;
        let mut data = vec![0; len.min(SEGMENT_MAX).div_ceil(4) * 4];
        self.stream.read_exact(&mut data).map_err(failed)?;
        data.truncate(len);
        Ok((header, data))
    }

    /// Waits for the response, gathering data on the way: status, sense data, data.
    fn response(&mut self, task: u32) -> Result<(u8, Vec<u8>, Vec<u8>), PortError> {
        let mut gathered = Vec::new();
        for _ in 0..MESSAGES_MAX {
            let (header, data) = self.receive()?;
            match header[0] & 0x3f {
                0x20 if be32(&header, 20) != u32::MAX => {
                    let mut pong = [0; HEADER];
                    (pong[0], pong[1]) = (0x40, 0x80);
                    pong[16..20].fill(0xff);
                    pong[20..24].copy_from_slice(&header[20..24]);
                    pong[24..28].copy_from_slice(&self.command.to_be_bytes());
                    self.send(pong, &[])?;
                }
                0x20 | 0x32 => {}
                0x25 if be32(&header, 16) == task => {
                    gathered.extend(data);
                    if header[1] & 1 == 1 {
                        self.status = be32(&header, 24).wrapping_add(1);
                        return Ok((header[3], Vec::new(), gathered));
                    }
                }
                0x21 if be32(&header, 16) == task => {
                    self.status = be32(&header, 24).wrapping_add(1);
                    if header[2] != 0 {
                        return Err(failed(format!("response {:02x}h", header[2])));
                    }
                    let sense = match data.get(..2) {
                        Some(len) => {
                            let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
                            data.get(2..2 + len).unwrap_or(&data[2..]).to_vec()
                        }
                        None => Vec::new(),
                    };
                    return Ok((header[3], sense, gathered));
                }
                other => {
                    return Err(failed(format!(
                        "message {other:02x}h instead of a response"
                    )));
                }
            }
        }
        Err(failed("no response among many messages"))
    }
}

impl ScsiPort for Session {
    fn submit(
        &mut self,
        cdb: &[u8],
        data: Data<'_>,
        _timeout: Duration,
    ) -> Result<ScsiEnd, PortError> {
        let (flags, out, expected) = match data {
            Data::Out(bytes) => (0xa1, bytes, bytes.len()),
            Data::In(room) => (0xc1, &[][..], room),
        };
        self.task += 1;
        let task = self.task;
        let mut header = [0; HEADER];
        (header[0], header[1], header[9]) = (0x01, flags, self.lun);
        header[16..20].copy_from_slice(&task.to_be_bytes());
        header[20..24].copy_from_slice(&(expected as u32).to_be_bytes());
        header[24..28].copy_from_slice(&self.command.to_be_bytes());
        header[28..32].copy_from_slice(&self.status.to_be_bytes());
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command += 1;
        self.send(header, out)?;
        let (status, sense, data) = self.response(task)?;
        let exchange = (
            cdb.to_vec(),
            out.to_vec(),
            status,
            sense.clone(),
            data.clone(),
        );
        self.log.lock().expect("no panic inside").push(exchange);
        Ok(ScsiEnd {
            status,
            sense,
            data,
        })
    }
}
