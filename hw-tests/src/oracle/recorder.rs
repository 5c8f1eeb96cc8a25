//! The recorder: appends what clients send to the log, makes it durable, then acknowledges.
//!
//! ```text
//!   connection ─ reader ─┐                              ┌─▶ acks to the connection
//!   connection ─ reader ─┼─▶ queue ─▶ writer: a batch, ──┤
//!   connection ─ reader ─┘            one fsync          └─▶ acks to the connection
//! ```
//!
//! A flush may take tens of milliseconds: whatever waits meanwhile goes with the next one. A failed write or flush ends
//! the recorder; it must not guess what is durable.

use super::log::Log;
use super::record::{Ack, RECORD_BYTES, Record};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Records that wait for the writer, over all connections; readers wait where it is full.
const QUEUE_MAX: usize = 1024;
/// Records made durable by one flush.
const BATCH_MAX: usize = 256;
/// A client that takes no acknowledgement for this long is left.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// A record on its way to the log, and where its acknowledgement goes.
type Job = (Record, Arc<TcpStream>);

/// Serves until a write or flush fails.
pub fn serve(mut log: Log, listener: TcpListener, writer: u64) -> io::Error {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    thread::spawn(move || accept(&listener, &sender));
    write(&mut log, &receiver, writer)
}

/// Tells systemd that the recorder is ready (sd_notify(3)); without systemd nothing.
pub fn tell_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    let name = path.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    socket.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

fn accept(listener: &TcpListener, jobs: &SyncSender<Job>) {
    for stream in listener.incoming() {
        let ready = stream.and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(WRITE_MAX))?;
            Ok(stream)
        });
        match ready {
            Ok(stream) => {
                let jobs = jobs.clone();
                thread::spawn(move || read(stream, &jobs));
            }
            Err(error) => {
                eprintln!("a connection can't be taken: {error}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn read(stream: TcpStream, jobs: &SyncSender<Job>) {
    let stream = Arc::new(stream);
    let mut bytes = [0; RECORD_BYTES];
    loop {
        if (&*stream).read_exact(&mut bytes).is_err() {
            return;
        }
        let Some(record) = Record::decode(&bytes) else {
            eprintln!("a client sent bytes that are no record: it is left");
            return;
        };
        if jobs.send((record, Arc::clone(&stream))).is_err() {
            return;
        }
    }
}

fn write(log: &mut Log, jobs: &Receiver<Job>, writer: u64) -> io::Error {
    loop {
        let Ok(first) = jobs.recv() else {
            return io::Error::other("no connection can be taken any more");
        };
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(BATCH_MAX - 1));
        let records: Vec<Record> = batch
            .iter()
            .map(|(record, _)| Record { writer, ..*record })
            .collect();
        if let Err(error) = log.append(&records) {
            return error;
        }
        for (record, stream) in batch {
            let ack = Ack {
                run: record.run,
                number: record.number,
                writer,
            };
            // A client that is gone asks again.
            let _ = (&*stream).write_all(&ack.encode());
        }
    }
}
