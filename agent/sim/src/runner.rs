//! Many seeds on all cores.

use crate::coverage::Coverage;
use crate::invariants::Violation;
use crate::progress::Progress;
use crate::shrink::{self, Kept, Shrunk};
use crate::story::Story;
use crate::world::World;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

/// Interval at which progress is saved.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Failing seeds that are shrunk, at most.
const SHRUNK_MAX: usize = 3;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Seeds {
    /// The first seed.
    pub start: u64,
    /// How many.
    pub count: u64,
    /// Threads.
    pub jobs: usize,
    /// End after so many broke a rule.
    pub stop_after: usize,
    /// End after this time.
    pub limit: Option<Duration>,
    /// Go on from what this file says, and keep it up to date.
    pub resume: Option<PathBuf>,
}

/// Result of a run over many seeds.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Counters over all seeds.
    pub coverage: Coverage,
    /// The broken rules found, with their seeds, sorted by seed.
    pub violations: Vec<(u64, Violation)>,
    /// What is needed of the first of them.
    pub shrunk: Vec<(u64, Shrunk)>,
    /// How long it took, with what was done before it was resumed.
    pub took: Duration,
    /// Every seed was run.
    pub over: bool,
}

/// Says which seed was running when a panic comes: with it the seed can be traced.
fn say_seed_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(seed) = SEED.get() {
                eprintln!("VIOLATION of no-panic in seed {seed}");
            }
            earlier(info);
        }));
    });
}

/// Runs one seed, with all of its faults or some.
pub fn run_seed(seed: u64, story: Story, kept: Option<&[Kept]>) -> (Coverage, Option<Violation>) {
    say_seed_on_panic();
    SEED.set(Some(seed));
    let end = World::of_seed_with(seed, story, kept).run_seed();
    SEED.set(None);
    end
}

/// Runs `count` seeds from `start` on `jobs` threads; ends early after `stop_after` violations or `limit`.
pub fn run_seeds(
    start: u64,
    count: u64,
    jobs: usize,
    stop_after: usize,
    limit: Option<Duration>,
) -> Run {
    let seeds = Seeds {
        start,
        count,
        jobs,
        stop_after,
        limit,
        resume: None,
    };
    let Bench { run, .. } = Bench::work(&seeds, Progress::unsaved(start, count));
    run
}

/// Runs seeds, goes on where an earlier run of them was ended, and shrinks what fails.
pub fn run(seeds: &Seeds) -> Result<Run, String> {
    let progress = match &seeds.resume {
        Some(path) => Progress::load(path, seeds.start, seeds.count)?,
        None => Progress::unsaved(seeds.start, seeds.count),
    };
    let Bench { mut run, unsaved } = Bench::work(seeds, progress);
    if let Some(why) = unsaved {
        return Err(why);
    }
    for (seed, violation) in run.violations.iter().take(SHRUNK_MAX) {
        let shrunk = shrink::seed(*seed, violation.rule);
        run.shrunk.push((*seed, shrunk));
    }
    Ok(run)
}

/// What the threads share.
struct Shared {
    progress: Progress,
    /// What chunks reached that aren't whole.
    rest: Coverage,
    violations: Vec<(u64, Violation)>,
    saved: Instant,
    unsaved: Option<String>,
}

/// A run that has ended, and why its progress could not be saved.
struct Bench {
    run: Run,
    unsaved: Option<String>,
}

impl Bench {
    fn work(seeds: &Seeds, progress: Progress) -> Bench {
        let begun = Instant::now();
        let before = progress.took;
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let shared = Mutex::new(Shared {
            progress,
            rest: Coverage::default(),
            violations: Vec::new(),
            saved: begun,
            unsaved: None,
        });
        std::thread::scope(|scope| {
            for _ in 0..seeds.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let chunk = next.fetch_add(1, Ordering::Relaxed);
                        if !work_on(seeds, &shared, &stop, begun, chunk) {
                            break;
                        }
                        let mut shared = lock(&shared);
                        shared.progress.took = before + begun.elapsed();
                        if shared.saved.elapsed() >= SAVE_EVERY {
                            shared.save(seeds);
                        }
                    }
                });
            }
        });
        let mut shared = shared.into_inner().unwrap_or_else(|p| p.into_inner());
        shared.progress.took = before + begun.elapsed();
        shared.save(seeds);
        shared.violations.sort_by_key(|(seed, _)| *seed);
        let mut run = Run {
            coverage: shared.progress.coverage.clone(),
            violations: shared.violations,
            shrunk: Vec::new(),
            took: shared.progress.took,
            over: shared.progress.is_over(),
        };
        run.coverage.add(&shared.rest);
        Bench {
            run,
            unsaved: shared.unsaved,
        }
    }
}

/// Runs the seeds of a chunk that isn't done yet; whether there may be more.
fn work_on(
    seeds: &Seeds,
    shared: &Mutex<Shared>,
    stop: &AtomicBool,
    begun: Instant,
    chunk: u64,
) -> bool {
    let numbers = {
        let shared = lock(shared);
        if chunk >= shared.progress.chunks() {
            return false;
        }
        if shared.progress.is_done(chunk) {
            return true;
        }
        shared.progress.seeds(chunk)
    };
    let mut reached = Coverage::default();
    let mut whole = true;
    for seed in numbers {
        if seeds.limit.is_some_and(|limit| begun.elapsed() > limit) {
            stop.store(true, Ordering::Relaxed);
        }
        if stop.load(Ordering::Relaxed) {
            whole = false;
            break;
        }
        let (coverage, violation) = run_seed(seed, Story::Off, None);
        reached.add(&coverage);
        if let Some(violation) = violation {
            // It is run again by whoever goes on from here.
            whole = false;
            let mut shared = lock(shared);
            shared.violations.push((seed, violation));
            if shared.violations.len() >= seeds.stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        }
    }
    let mut shared = lock(shared);
    match whole {
        true => {
            shared.progress.coverage.add(&reached);
            shared.progress.done(chunk);
        }
        false => shared.rest.add(&reached),
    }
    true
}

impl Shared {
    fn save(&mut self, seeds: &Seeds) {
        self.saved = Instant::now();
        if let Some(path) = &seeds.resume
            && let Err(error) = self.progress.save(path)
        {
            self.unsaved = Some(format!("{}: {error}", path.display()));
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
