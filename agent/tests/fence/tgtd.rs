//! `tgtd`, a target that others wrote, on loopback in the calling thread's network namespace.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where it listens.
pub const PORTAL: &str = "127.0.0.1:3269";
/// The name of its one target; the disk is its unit number 1.
pub const TARGET: &str = "iqn.2026-01.test.failoverd:disk";

/// Ended with the test, however that ends, and what it leaves behind removed.
pub struct Tgtd(Child, String);

impl Tgtd {
    /// Starts it with one disk in `image`.
    ///
    /// # Errors
    /// Why it can't be had here.
    pub fn start(image: &Path) -> Result<Tgtd, &'static str> {
        std::fs::write(image, vec![0; 1 << 20]).expect("written");
        // Its control socket's name has the number in it: another for each run.
        let control = (1000 + std::process::id() % 30_000).to_string();
        let started = Command::new("tgtd")
            .args(["-f", "-C", &control, "--iscsi", &format!("portal={PORTAL}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = started.map_err(|_| "no `tgtd` program: install tgt")?;
        let daemon = Tgtd(child, control);
        let made = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            daemon.tell(&format!("--op new --mode target --tid 1 -T {TARGET}"))
        });
        if !made {
            return Err("tgtd doesn't start here");
        }
        let image = image.display();
        for words in [
            format!("--op new --mode logicalunit --tid 1 --lun 1 -b {image}"),
            "--op bind --mode target --tid 1 -I ALL".to_owned(),
        ] {
            assert!(daemon.tell(&words), "{words}");
        }
        Ok(daemon)
    }

    fn tell(&self, words: &str) -> bool {
        let mut command = Command::new("tgtadm");
        command
            .args(["-C", &self.1, "--lld", "iscsi"])
            .args(words.split(' '));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        // It lets SIGTERM pass while it has sessions.
        let _ = self.0.kill();
        let _ = self.0.wait();
        for end in ["", ".lock"] {
            let _ = std::fs::remove_file(format!("/var/run/tgtd/socket.{}{end}", self.1));
        }
    }
}
