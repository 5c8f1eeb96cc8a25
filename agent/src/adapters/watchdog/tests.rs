use super::*;
use std::sync::{Arc, Mutex};

/// A device that can be told how to behave.
#[derive(Clone)]
struct Pretend(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    options: u32,
    boot: u32,
    timeout: i32,
    /// What it makes of a timeout that is set.
    makes: fn(i32) -> Result<i32, Errno>,
    pretimeout: i32,
    fixed_pretimeout: bool,
    pets: u32,
    armed: bool,
}

const ALL: u32 =
    Flags::SET_TIMEOUT.0 | Flags::MAGIC_CLOSE.0 | Flags::KEEPALIVE.0 | Flags::PRETIMEOUT.0;

fn pretend() -> Pretend {
    Pretend(Arc::new(Mutex::new(State {
        options: ALL,
        boot: 0,
        timeout: 60,
        makes: Ok,
        pretimeout: 5,
        fixed_pretimeout: false,
        pets: 0,
        armed: true,
    })))
}

impl Pretend {
    fn with(change: impl FnOnce(&mut State)) -> Pretend {
        let device = pretend();
        change(&mut device.0.lock().expect("unlocked"));
        device
    }

    fn state(&self) -> State {
        self.0.lock().expect("unlocked").clone()
    }

    fn open(&self, seconds: u64) -> Result<DeviceWatchdog, Failure> {
        let timeout = Duration::from_secs(seconds);
        DeviceWatchdog::checked(
            Box::new(self.clone()),
            Path::new("/dev/wd"),
            timeout,
            Left::No,
        )
    }

    fn refusal(&self, seconds: u64) -> String {
        self.open(seconds).expect_err("refused").0
    }
}

impl Device for Pretend {
    fn support(&self) -> Result<Support, Errno> {
        Ok(Support {
            options: Flags(self.state().options),
            identity: "pretend".to_owned(),
        })
    }

    fn boot_status(&self) -> Result<Flags, Errno> {
        Ok(Flags(self.state().boot))
    }

    fn set_timeout(&self, seconds: i32) -> Result<i32, Errno> {
        let mut state = self.0.lock().expect("unlocked");
        state.timeout = (state.makes)(seconds)?;
        Ok(state.timeout)
    }

    fn timeout(&self) -> Result<i32, Errno> {
        Ok(self.state().timeout)
    }

    fn set_pretimeout(&self, seconds: i32) -> Result<(), Errno> {
        let mut state = self.0.lock().expect("unlocked");
        if state.fixed_pretimeout {
            return Err(Errno::EINVAL);
        }
        state.pretimeout = seconds;
        Ok(())
    }

    fn pretimeout(&self) -> Result<i32, Errno> {
        Ok(self.state().pretimeout)
    }

    fn keep_alive(&self) -> Result<(), Errno> {
        self.0.lock().expect("unlocked").pets += 1;
        Ok(())
    }

    fn disarm(&self) -> Result<(), Errno> {
        self.0.lock().expect("unlocked").armed = false;
        Ok(())
    }
}

#[test]
fn what_is_no_watchdog_is_refused_with_the_remedy() {
    let open = |path: &str, seconds| {
        DeviceWatchdog::open(Path::new(path), Duration::from_secs(seconds), None, false)
            .expect_err("none")
            .0
    };
    assert!(open("/nowhere/watchdog", 10).contains("load its driver"));
    assert!(open("/dev/null", 10).contains("must name a watchdog"));
    assert!(open("/dev/null", 0).contains("too short"));
}

#[test]
fn a_device_does_what_was_asked_or_is_disarmed_and_refused() {
    let device = pretend();
    let mut watchdog = device.open(10).expect("fine");
    assert_eq!(watchdog.timeout(), Duration::from_secs(10));
    assert_eq!(device.state().pretimeout, 0);
    watchdog.pet();
    watchdog.pet();
    assert_eq!(device.state().pets, 2);
    assert!(!watchdog.has_bitten());
    drop(watchdog);
    assert!(device.state().armed, "nobody said that it ends in order");

    let refused = [
        (Pretend::with(|s| s.options &= !0x8000), "can't be petted"),
        (
            Pretend::with(|s| s.makes = |wanted| Ok(wanted + 6)),
            "16 s is in force",
        ),
        (
            Pretend::with(|s| s.makes = |_| Err(Errno::EINVAL)),
            "EINVAL",
        ),
        (Pretend::with(|s| s.makes = |_| Ok(1)), "1 s is in force"),
        (Pretend::with(|s| s.options &= !0x80), "60 s is in force"),
        (
            Pretend::with(|s| s.fixed_pretimeout = true),
            "5 s before its timeout",
        ),
    ];
    for (device, why) in refused {
        let said = device.refusal(10);
        assert!(
            said.starts_with("watchdog /dev/wd: ") && said.contains(why),
            "{said}"
        );
        assert!(!device.state().armed, "{why}: a refused one must not reset");
    }
    assert!(pretend().refusal(2).contains("at least 3"));
}

/// Its pools may be imported still, and nobody pets after a start that failed: the reset is what ends that.
#[test]
fn a_kept_one_that_fails_its_setup_stays_armed_where_this_boot_owned() {
    let (path, timeout) = (Path::new("/dev/wd"), Duration::from_secs(10));
    for (left, owned) in [(Left::ByOwner, true), (Left::ByOther, false)] {
        let device = Pretend::with(|s| s.makes = |_| Err(Errno::EINVAL));
        let opened = DeviceWatchdog::checked(Box::new(device.clone()), path, timeout, left);
        let said = opened.expect_err("refused").0;
        assert!(said.contains("60 s is in force"), "{said}");
        assert_eq!(said.contains("it stays armed"), owned, "{said}");
        assert_eq!(device.state().armed, owned);
    }
    let device = pretend();
    let opened = DeviceWatchdog::checked(Box::new(device.clone()), path, timeout, Left::ByOwner);
    opened.expect("fine").disarm();
    assert!(!device.state().armed, "an end in order");
}

/// The configuration names another device now, and that one can't be had.
#[test]
fn one_of_another_device_stays_armed_until_the_new_one_works() {
    for owned in [true, false] {
        let old = tempfile::NamedTempFile::new().expect("a file");
        let kept = OwnedFd::from(old.reopen().expect("opened"));
        let path = Path::new("/nowhere/watchdog");
        let opened = DeviceWatchdog::open(path, Duration::from_secs(10), Some(kept), owned);
        assert!(opened.is_err());
        let letter = if owned { "" } else { "V" };
        let written = std::fs::read_to_string(old.path()).expect("read");
        assert_eq!(written, letter);
    }
}

#[test]
fn a_fixed_shorter_timeout_will_do_and_a_bite_is_told() {
    let device = Pretend::with(|s| {
        s.options &= !0x80;
        s.timeout = 8;
        s.boot = Flags::CARD_RESET.0;
    });
    let watchdog = device.open(10).expect("shorter is stricter");
    assert_eq!(watchdog.timeout(), Duration::from_secs(8));
    assert!(watchdog.has_bitten());
    watchdog.disarm();
    assert!(!device.state().armed);
}

#[test]
fn only_the_device_that_is_named_is_gone_on_with() {
    let null = File::open("/dev/null").expect("there");
    assert!(same_device(&null, Path::new("/dev/null")));
    assert!(!same_device(&null, Path::new("/dev/zero")));
    assert!(!same_device(&null, Path::new("/nowhere")));
}

#[test]
fn a_device_is_described_without_opening_it() {
    let sys = tempfile::tempdir().expect("a folder");
    let described = |seconds| describe(sys.path(), Path::new("/dev/watchdog"), seconds);
    let said = described(10).expect_err("none").0;
    assert!(said.contains("load its driver"), "{said}");
    let place = sys.path().join("class/watchdog/watchdog0");
    std::fs::create_dir_all(&place).expect("a folder");
    let write = |name, text| std::fs::write(place.join(name), text).expect("written");
    write("identity", "Software Watchdog\n");
    write("nowayout", "1\n");
    write("max_timeout", "60\n");
    let said = described(60).expect("fine");
    assert!(
        said.contains("can't be disarmed") && said.contains("it is software"),
        "{said}"
    );
    let said = described(61).expect_err("too long").0;
    assert!(said.contains("more than its 60 s"), "{said}");
    assert!(
        described(2)
            .expect_err("too short")
            .0
            .contains("at least 3")
    );
}

/// Nobody pets after a start that failed; a machine that owns nothing would be reset at each boot.
#[test]
fn a_start_that_failed_disarms_unless_this_boot_owned() {
    use crate::assemble::{Kept, WatchdogEnd, give_up};
    let run = tempfile::tempdir().expect("a folder");
    // A record that can't be read may be of this boot.
    std::fs::write(run.path().join("owner"), "torn").expect("written");
    for owned in [true, false] {
        if !owned {
            std::fs::remove_file(run.path().join("owner")).expect("removed");
        }
        let device = pretend();
        let end = WatchdogEnd::from(device.open(10).expect("fine"));
        let kept = tempfile::NamedTempFile::new().expect("a file");
        let copy = kept.reopen().expect("opened");
        let mut all: Kept = [(KEPT_AS.to_owned(), OwnedFd::from(copy))].into();
        give_up(run.path(), &mut all, &end);
        assert_eq!(device.state().armed, owned);
        let letter = if owned { "" } else { "V" };
        let written = std::fs::read_to_string(kept.path()).expect("read");
        assert_eq!(written, letter, "the kept one");
    }
}
