//! The demo's folder: who finds what where, and the configuration of each controller.
//!
//! ```text
//!   DIR/ shelf.sock  reset.sock  result.json  shelf.log
//!        a/ failoverd.sock  failoverd.toml  pair.key  host.sock  daemon.log  host.log  state/  run/
//!        b/ …
//! ```

use super::cables::{LAN_INTERFACE, LINKS, VIP, link_address};
use crate::shelf::disk_name;
use failover_core::ids::Node;
use failoverd::pair_key::PairKey;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// UDP port of the heartbeats.
const BEAT_PORT: u16 = 7400;
/// sun_path of unix(7), less the longest name below the folder.
const DIR_MAX: usize = 108 - "/a/failoverd.sock".len() - 1;

/// The folder.
#[derive(Clone, Debug)]
pub struct Place {
    dir: PathBuf,
}

impl Place {
    /// Makes the folder ready for a pair whose shelf has `disks` disks.
    pub fn prepare(dir: &Path, disks: usize) -> Result<Place, String> {
        let told = |what: &str, error: io::Error| format!("{what} in {}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(|error| told("making the folders", error))?;
        let dir = fs::canonicalize(dir).map_err(|error| told("finding the folder", error))?;
        if dir.as_os_str().len() > DIR_MAX {
            return Err(format!(
                "the path {} is too long for the sockets in it; name one of at most {DIR_MAX} bytes with --dir",
                dir.display()
            ));
        }
        let place = Place { dir };
        let key = place.node_dir(Node::A).join("pair.key");
        for node in [Node::A, Node::B] {
            let folder = place.node_dir(node);
            // What an earlier run left would be taken for this one's past.
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(|error| told("clearing an old run", error))?;
            }
            fs::create_dir_all(folder.join("state"))
                .map_err(|error| told("making the folders", error))?;
        }
        for socket in [place.shelf(), place.reset()] {
            remove_if_there(&socket).map_err(|error| told("removing an old socket", error))?;
        }
        PairKey::create(&key).map_err(|error| error.to_string())?;
        let other = place.node_dir(Node::B).join("pair.key");
        fs::copy(&key, other).map_err(|error| told("copying the pair key", error))?;
        for node in [Node::A, Node::B] {
            let text = place.configuration(node, disks);
            fs::write(place.config(node), text)
                .map_err(|error| told("writing the configuration", error))?;
        }
        Ok(place)
    }

    /// A folder that another process of the demo has made ready.
    pub fn existing(dir: &Path) -> Place {
        Place {
            dir: dir.to_owned(),
        }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Folder of a controller.
    pub fn node_dir(&self, node: Node) -> PathBuf {
        self.dir.join(match node {
            Node::A => "a",
            Node::B => "b",
        })
    }

    /// Configuration of a controller's daemon.
    pub fn config(&self, node: Node) -> PathBuf {
        self.node_dir(node).join("failoverd.toml")
    }

    /// Control socket of a controller's daemon.
    pub fn rpc(&self, node: Node) -> PathBuf {
        self.node_dir(node).join("failoverd.sock")
    }

    /// Socket of a controller's host.
    pub fn host(&self, node: Node) -> PathBuf {
        self.node_dir(node).join("host.sock")
    }

    /// Folder that doesn't survive a controller's boot.
    pub fn runtime(&self, node: Node) -> PathBuf {
        self.node_dir(node).join("run")
    }

    /// Socket of the shelf.
    pub fn shelf(&self) -> PathBuf {
        self.dir.join("shelf.sock")
    }

    /// Socket on which controllers ask for their reset.
    pub fn reset(&self) -> PathBuf {
        self.dir.join("reset.sock")
    }

    /// What of a controller doesn't survive its boot.
    pub fn clear_for_boot(&self, node: Node) -> io::Result<()> {
        let runtime = self.runtime(node);
        if runtime.exists() {
            fs::remove_dir_all(&runtime)?;
        }
        fs::create_dir_all(&runtime)?;
        remove_if_there(&self.host(node))?;
        remove_if_there(&self.rpc(node))
    }

    fn configuration(&self, node: Node, disks: usize) -> String {
        let dir = self.node_dir(node);
        let dir = dir.display();
        let names: Vec<String> = (0..disks)
            .map(|n| format!("\"{}\"", disk_name(n)))
            .collect();
        let mut text = format!(
            "# Controller {node} of the demo: the default configuration but for reset_hold_min.\n\
             node = \"{node}\"\n\
             pair_key = \"{dir}/pair.key\"\n\
             disks = [{}]\n\
             arbiters = {}\n\
             critical_interfaces = [\"{LAN_INTERFACE}\"]\n\n\
             [paths]\n\
             state_dir = \"{dir}/state\"\n\
             runtime_dir = \"{dir}/run\"\n\
             socket = \"{dir}/failoverd.sock\"\n\n\
             [timing]\n\
             # The demo freezes and kills controllers on purpose, over and over.\n\
             reset_hold_min = 0\n",
            names.join(", "),
            if disks < 3 { 1 } else { 3 },
        );
        for (number, interface) in LINKS.iter().enumerate() {
            let local = link_address(number, node);
            let peer = link_address(number, node.other());
            // Writing into a String can't fail.
            let _ = write!(
                text,
                "\n[[links]]\nlocal = \"{local}:{BEAT_PORT}\"\npeer = \"{peer}:{BEAT_PORT}\"\ninterface = \"{interface}\"\n"
            );
        }
        let _ = write!(
            text,
            "\n[[vips]]\ninterface = \"{LAN_INTERFACE}\"\naddress = \"{VIP}/24\"\n\
             \n# The demo's pool is the shelf's own log; device and mountpoint are names only.\n\
             [[pools]]\nname = \"shelf-log\"\ndevice = \"/dev/shelf\"\nmountpoint = \"/shelf-log\"\nfstype = \"log\"\n"
        );
        text
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failoverd::config::Config;

    #[test]
    fn the_configurations_are_taken_by_the_daemon() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place::prepare(dir.path(), 24).expect("prepared");
        for node in [Node::A, Node::B] {
            let config = Config::load(&place.config(node)).expect("a valid configuration");
            assert_eq!(config.node, node);
            assert_eq!(config.disks.len(), 24);
            assert!(config.has_peer());
        }
    }
}
