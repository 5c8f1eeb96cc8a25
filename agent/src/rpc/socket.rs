//! The unix socket: its file, who may connect, and the loop that accepts.

use super::connection::{self, Stopping};
use super::session::Session;
use super::{Backend, Hub, Limits};
use failover_api::methods::Access;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, chown, geteuid};
use std::fs::{self, Permissions};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Members of this group may look.
const GROUP: &str = "failoverd";
/// Owner and group may connect.
const MODE: u32 = 0o660;
const BACKLOG: u32 = 128;
/// After an accept that failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the connections to say goodbye.
const FAREWELL: Duration = Duration::from_millis(500);
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something that is no socket has its name.
    #[error("{0} is no socket: it isn't touched; move it away or configure another path")]
    InTheWay(PathBuf),
    /// Somebody answers on it.
    #[error("{0} is answered by another failoverd: stop that one first")]
    InUse(PathBuf),
    /// The system refused.
    #[error("{path}: cannot {what}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

/// The listening socket. Its file goes away with it.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl Socket {
    /// Listens at `path`. A stale file is replaced, but only if nobody answers on it. Needs a tokio runtime.
    pub fn bind(path: &Path) -> Result<Socket, SocketError> {
        let failed = |what| {
            move |error: io::Error| SocketError::Io {
                path: path.to_owned(),
                what,
                error,
            }
        };
        clear_stale(path)?;
        let socket = UnixSocket::new_stream().map_err(failed("make a socket"))?;
        // Linux gives the file the mode of the unbound socket, so it is never open to others, not for a moment.
        fchmod(&socket, Mode::from_bits_truncate(MODE))
            .map_err(|error| failed("set its mode")(error.into()))?;
        socket.bind(path).map_err(failed(
            "bind (does the folder exist, is the name at most 107 bytes?)",
        ))?;
        let listener = socket.listen(BACKLOG).map_err(failed("listen"))?;
        // A strict umask may have taken bits away.
        fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(failed("set its mode"))?;
        give_to_group(path);
        let inode = fs::symlink_metadata(path).ok();
        Ok(Socket {
            listener,
            path: path.to_owned(),
            inode: inode.map(|found| (found.dev(), found.ino())),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok();
        if now.is_some() && now.map(|found| (found.dev(), found.ino())) == self.inode {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what, error| SocketError::Io {
        path: path.to_owned(),
        what,
        error,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at it", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::InTheWay(path.to_owned()));
        }
        Ok(_) => {}
    }
    match knock(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        // Somebody listens who is busy: the queue of those who wait is full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("ask whether somebody answers on it", error)),
        Ok(()) => return Err(SocketError::InUse(path.to_owned())),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(failed("remove the stale file", error))
        }
        _ => Ok(()),
    }
}

/// Connects without waiting, and hangs up.
fn knock(path: &Path) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let caller = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    Ok(connect(caller.as_raw_fd(), &UnixAddr::new(path)?)?)
}

/// Without the group, or without the right to give files away, the socket stays the daemon's own.
fn give_to_group(path: &Path) {
    match Group::from_name(GROUP) {
        Ok(Some(group)) => {
            if let Err(error) = chown(path, None, Some(group.gid)) {
                tracing::warn!(
                    "{}: cannot give it to the group {GROUP}: {error}",
                    path.display()
                );
            }
        }
        Ok(None) => tracing::debug!("there is no group {GROUP}"),
        Err(error) => tracing::warn!("cannot look up the group {GROUP}: {error}"),
    }
}

/// Root and the daemon's own user may change things; whoever else can connect may look, until there are roles.
/// Inside a user namespace both ids are those of the namespace.
fn access_of(uid: u32) -> Access {
    if uid == 0 || uid == geteuid().as_raw() {
        Access::Write
    } else {
        Access::Read
    }
}

/// Serves the API until `stop` is ready, then tells the clients and ends.
pub async fn serve(
    socket: Socket,
    hub: Arc<Hub>,
    backend: Arc<dyn Backend>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (stopper, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let pump = hub.pump();
    tokio::pin!(stop, pump);
    let ended = loop {
        let accepted = tokio::select! {
            () = &mut stop => break Ok(()),
            Err(error) = &mut pump => break Err(error),
            Some(_) = connections.join_next() => continue,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let entering = Entering {
                    hub: &hub,
                    backend: &backend,
                    limits,
                    stopping: &stopping,
                };
                entering.admit(stream, &mut connections);
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(socket);
    // Fails only when no connection is left to hear it.
    let _ = stopper.send(true);
    let all_gone = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, all_gone).await;
    ended
}

/// What a new connection is given.
struct Entering<'a> {
    hub: &'a Arc<Hub>,
    backend: &'a Arc<dyn Backend>,
    limits: Limits,
    stopping: &'a Stopping,
}

impl Entering<'_> {
    /// Starts the task of a connection, if there is room for it.
    fn admit(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        while connections.try_join_next().is_some() {}
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!("cannot tell who connects: {error}"),
        };
        let access = access_of(peer.uid());
        let room = match access {
            Access::Write => self.limits.connections,
            Access::Open | Access::Read => self
                .limits
                .connections
                .saturating_sub(self.limits.kept_for_writers),
        };
        let uid = peer.uid();
        if connections.len() >= room {
            tracing::warn!(uid, "refused: {} connections already", connections.len());
            // A client that doesn't take these few bytes at once gets a closed connection alone.
            let _ = stream.try_write(FULL);
            return;
        }
        let name = match peer.pid() {
            Some(pid) => format!("uid {uid} pid {pid}"),
            None => format!("uid {uid}"),
        };
        let session = Session::new(self.backend.clone(), self.limits, access, name);
        connections.spawn(connection::run(
            stream,
            session,
            self.hub.clone(),
            self.limits,
            self.stopping.clone(),
        ));
    }
}
