//! The wires of the demo: bridges as cables, in the demo's own namespace, one port for each controller.
//!
//! ```text
//!             lan (bridge, 10.77.0.1: the client)
//!        lan-a │         │ lan-b                    VIP 10.77.0.100 on the MASTER's lan0
//!      ┌───────┴──┐   ┌──┴───────┐
//!      │ A   lan0 │   │ lan0   B │   10.77.0.11, 10.77.0.12
//!      │ hb0 hb1  │   │ hb0 hb1  │   10.77.1.1 ↔ 10.77.1.2, 10.77.2.1 ↔ 10.77.2.2
//!      └──┬───┬───┘   └──┬───┬───┘
//!         └───┼── hb0 ───┘   │
//!             └── hb1 ───────┘
//! ```
//!
//! A cut sets the bridge's ports down: both controllers see their carrier go, as with a pulled cable.

use super::namespaces::NetworkNamespace;
use failover_core::ids::Node;
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, new_connection};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use tokio::runtime::Runtime;

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
/// Name of the clients' network, and of its bridge.
pub const LAN: &str = "lan";
/// Heartbeat links, and their bridges.
pub const LINKS: [&str; 2] = ["hb0", "hb1"];
/// The interface on the clients' network in each controller.
pub const LAN_INTERFACE: &str = "lan0";

/// Address of a controller on its heartbeat link number `link`.
pub fn link_address(link: usize, node: Node) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1 + link as u8, 1 + node as u8)
}

/// Own address of a controller on the clients' network.
pub fn lan_address(node: Node) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 11 + node as u8)
}

/// Hardware address of a controller on the clients' network: the same after each boot.
pub fn lan_mac(node: Node) -> [u8; 6] {
    mac(node as u8 + 1, 0)
}

/// Hardware address of the client.
pub fn client_mac() -> [u8; 6] {
    mac(0xbb, 0)
}

/// Locally administered, so that it is nobody's.
const fn mac(owner: u8, port: u8) -> [u8; 6] {
    [0x02, 0x77, 0, 0, owner, port]
}

fn port(cable: &str, node: Node) -> String {
    let letter = match node {
        Node::A => 'a',
        Node::B => 'b',
    };
    format!("{cable}-{letter}")
}

/// The bridges and who is plugged in.
pub struct Cables {
    runtime: Runtime,
    handle: Handle,
}

impl Cables {
    /// Lays the cables in the current, empty namespace.
    pub fn lay() -> io::Result<Cables> {
        let runtime = runtime()?;
        let handle = connect(&runtime)?;
        let cables = Cables { runtime, handle };
        for (number, name) in [LAN, LINKS[0], LINKS[1]].into_iter().enumerate() {
            let bridge = LinkBridge::new(name)
                .forward_delay(0)
                .mcast_snooping(false)
                .address(mac(0xbb, number as u8).to_vec())
                .up();
            let add = cables.handle.link().add(bridge.build()).execute();
            cables.run(&format!("adding the bridge {name}"), add)?;
        }
        let lan = index(LAN)?;
        let address = IpAddr::V4(CLIENT);
        let add = cables.handle.address().add(lan, address, 24).execute();
        cables.run("giving the client its address", add)?;
        Ok(cables)
    }

    /// Plugs a controller in: new interfaces in its namespace, all cables whole.
    pub fn plug(&self, node: Node, namespace: &NetworkNamespace) -> io::Result<()> {
        let ends = [(LAN, LAN_INTERFACE), (LINKS[0], "hb0"), (LINKS[1], "hb1")];
        for (number, (cable, inner)) in ends.into_iter().enumerate() {
            let outer = port(cable, node);
            // Both ends of a cable are in this namespace for a moment: the inner one under a name of its own.
            let passing = format!("{outer}-in");
            let pair = LinkVeth::new(&outer, &passing)
                .address(mac(0xcc + node as u8, number as u8).to_vec())
                .controller(index(cable)?)
                .up();
            let add = self.handle.link().add(pair.build()).execute();
            self.run(&format!("adding the cable {outer}"), add)?;
            let inside = LinkUnspec::new_with_index(index(&passing)?)
                .name(inner)
                .address(mac(node as u8 + 1, number as u8).to_vec())
                .setns_by_fd(namespace.raw_fd());
            let set = self.handle.link().set(inside.build()).execute();
            self.run(&format!("plugging {outer} in"), set)?;
        }
        namespace.run(move || configure(node))?;
        for link in LINKS {
            self.set_port(&port(link, node.other()), true)?;
        }
        Ok(())
    }

    /// Takes a controller's interfaces away: what its kernel knew of its network goes with them.
    pub fn unplug(&self, node: Node) -> io::Result<()> {
        for cable in [LAN, LINKS[0], LINKS[1]] {
            if let Ok(index) = index(&port(cable, node)) {
                let del = self.handle.link().del(index).execute();
                self.run(&format!("removing {cable} of {node}"), del)?;
            }
        }
        Ok(())
    }

    /// All cables of a controller go dead; the other one loses the carrier of the heartbeat links.
    pub fn power_off(&self, node: Node) -> io::Result<()> {
        self.set_port(&port(LAN, node), false)?;
        for link in LINKS {
            self.set_port(&port(link, node), false)?;
            self.set_port(&port(link, node.other()), false)?;
        }
        Ok(())
    }

    /// Cuts (`up` false) or mends a heartbeat link.
    pub fn set_link(&self, link: usize, up: bool) -> io::Result<()> {
        self.set_port(&port(LINKS[link], Node::A), up)?;
        self.set_port(&port(LINKS[link], Node::B), up)
    }

    fn set_port(&self, name: &str, up: bool) -> io::Result<()> {
        // A controller that isn't plugged in has no port.
        let Ok(index) = index(name) else {
            return Ok(());
        };
        let port = LinkUnspec::new_with_index(index);
        let port = if up { port.up() } else { port.down() };
        let set = self.handle.link().set(port.build()).execute();
        self.run(
            &format!("setting {name} {}", if up { "up" } else { "down" }),
            set,
        )
    }

    fn run<F>(&self, what: &str, request: F) -> io::Result<()>
    where
        F: Future<Output = Result<(), rtnetlink::Error>>,
    {
        let done = self.runtime.block_on(request);
        done.map_err(|error| io::Error::other(format!("{what}: {error}")))
    }
}

/// Addresses and carriers inside a controller.
fn configure(node: Node) -> io::Result<()> {
    let runtime = runtime()?;
    let handle = connect(&runtime)?;
    let interfaces = [
        ("lo", None),
        (LAN_INTERFACE, Some(lan_address(node))),
        (LINKS[0], Some(link_address(0, node))),
        (LINKS[1], Some(link_address(1, node))),
    ];
    for (name, address) in interfaces {
        let index = index(name)?;
        let failed = |error| io::Error::other(format!("setting up {name} in {node}: {error}"));
        if let Some(address) = address {
            let add = handle.address().add(index, IpAddr::V4(address), 24);
            runtime.block_on(add.execute()).map_err(failed)?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        runtime
            .block_on(handle.link().set(up).execute())
            .map_err(failed)?;
    }
    Ok(())
}

fn runtime() -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().build()
}

fn connect(runtime: &Runtime) -> io::Result<Handle> {
    let _inside = runtime.enter();
    let (connection, handle, _) = new_connection()?;
    runtime.spawn(connection);
    Ok(handle)
}

/// Number of an interface in the current namespace.
fn index(name: &str) -> io::Result<u32> {
    let index = if_nametoindex(name);
    index.map_err(|error| io::Error::other(format!("interface {name}: {error}")))
}
