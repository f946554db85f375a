// SPDX-License-Identifier: GPL-2.0
//! Power cuts.
//!
//! Killing a virtual machine leaves the host's page cache whole, so a store
//! that never flushes would pass. The disk of these tests therefore records
//! every write and flush; after the kill, images are made of everything that
//! was flushed and a random part of what was not (see `disklog` for the fault
//! model), and each is loaded and compared with what the guest had been told
//! before the plug was pulled (see `verify` for what must hold).
//!
//! The log also tells what any earlier power cut would have left. Since a
//! machine is killed between two writes far more often than between a write and
//! its flush, every other image is cut just before a flush.

use crate::alarm_of;
use crate::machine::{Host, Machine};
use hpkv_vmtests::disklog::DiskLog;
use hpkv_vmtests::journal::Journal;
use hpkv_vmtests::rng::{Rng, seed_of};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Host, &mut String) -> Result<(), String>,
}

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "power_cut_keeps_what_sync_acknowledged",
        run: keeps_what_sync_acknowledged,
    },
    Test {
        name: "power_cut_leaves_a_prefix_of_the_commits",
        run: leaves_a_prefix,
    },
    Test {
        name: "power_cut_after_sync_keeps_every_record",
        run: keeps_every_record,
    },
    Test {
        name: "power_cut_test_notices_a_missing_flush",
        run: notices_a_missing_flush,
    },
];

/// One campaign: the same load over and over, from where the last cut left it.
struct Campaign<'a> {
    host: &'a Host,
    name: &'a str,
    seed: u64,
    disk_bytes: u64,
    threads: u64,
    keys: u64,
    value_len_max: u64,
    sync_every: u64,
    /// Changes per thread; the load ends with a SYNC call after so many.
    limit: Option<u64>,
    clients: u64,
    client_writes: u64,
    parameters: &'a str,
    flush: bool,
    images: u64,
    mem: &'a str,
}

/// What was found in an image: the number of changes of each thread, or why
/// it is wrong.
type Verdict = Result<Vec<u64>, String>;

impl Campaign<'_> {
    fn file(&self, what: &str) -> PathBuf {
        self.host.out.join(format!("{}-{what}", self.name))
    }

    fn settings(&self, starts: &[u64]) -> String {
        let starts: Vec<String> = starts.iter().map(u64::to_string).collect();
        format!(
            "seed={} threads={} keys={} value_len_max={} sync_every={} clients={} client_writes={} starts={}",
            self.seed,
            self.threads,
            self.keys,
            self.value_len_max,
            self.sync_every,
            self.clients,
            self.client_writes,
            starts.join(",")
        )
    }

    /// Loads the store until the plug is pulled at a random moment, and makes
    /// images. `base` is the disk from before.
    fn cut(
        &self,
        round: u64,
        base: Option<&File>,
        starts: &[u64],
        output: &mut String,
    ) -> Result<Vec<u64>, String> {
        let text = |e: std::io::Error| e.to_string();
        let (disk, log, journal) = (self.file("disk"), self.file("log"), self.file("journal"));
        fs::write(&journal, "").map_err(text)?;
        let file = File::create(&disk).map_err(text)?;
        file.set_len(self.disk_bytes).map_err(text)?;
        if let Some(base) = base {
            copy(base, 0, &file, 0, self.disk_bytes).map_err(text)?;
        }
        let console = self.host.console(&format!("{}-{round}-load", self.name));
        let mut machine = Machine::new(self.host, &console);
        machine
            .option("--mem", self.mem)
            .option("--blklog", format!("{}:{}", disk.display(), log.display()))
            .option("--serial2", &journal);
        let command = format!(
            "/hpkv-test/vmguest load {} limit={} device=/dev/vda journal=/dev/ttyS1 flush={} parameters={}",
            self.settings(starts),
            self.limit.unwrap_or(u64::MAX),
            u64::from(self.flush),
            self.parameters
        );
        let mut machine = machine.start(&command);
        let mut rng = Rng::new(seed_of(&[self.seed, 4, round]));
        let start = Instant::now();
        let mut first_ack = None;
        // From the first acknowledgement on, the moment is random.
        let delay = Duration::from_millis(rng.between(20, self.host.dose(2_500, 6_000)));
        // How much was told when the disk's log had which length: what was told
        // before is durable in every later state of the log.
        let mut moments: Vec<(u64, u64)> = vec![(0, 0)];
        loop {
            std::thread::sleep(Duration::from_millis(1));
            let length = fs::metadata(&journal).map_err(text)?.len();
            moments.push((length, fs::metadata(&log).map_or(0, |m| m.len())));
            let told = length > 0;
            if told && first_ack.is_none() {
                first_ack = Some(Instant::now());
            }
            let now = match (self.limit, first_ack) {
                (Some(_), Some(_)) => fs::read_to_string(&journal).map_err(text)?.contains("S "),
                (None, Some(first)) => first.elapsed() >= delay,
                _ => false,
            };
            let told_wrong = told && self.limit.is_some() && {
                fs::read_to_string(&journal).map_err(text)?.starts_with('X')
            };
            if now || told_wrong {
                break;
            }
            let patience = self.host.dose(180, 1_800);
            if machine.has_ended() || start.elapsed() > Duration::from_secs(patience) {
                machine.cut_power();
                let (lines, _) = machine.rest(Duration::from_secs(1));
                let said = lines.join("\n");
                return Err(format!(
                    "no acknowledgement came: {said}\n{}",
                    console.tail(40)
                ));
            }
        }
        machine.cut_power();
        let (lines, _) = machine.rest(Duration::from_millis(200));
        alarm_of(&console)?;
        let journal_text = fs::read_to_string(&journal).map_err(text)?;
        let told = Journal::parse(&journal_text);
        if let Some(complaint) = told.complaints.first() {
            return Err(format!(
                "under load: {complaint}\n{}\n{}",
                lines.join("\n"),
                console.tail(20)
            ));
        }
        let log_file = File::open(&log).map_err(text)?;
        let disk_log = DiskLog::open(log_file, self.disk_bytes).map_err(text)?;
        let images_path = self.file("images");
        let mut images = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&images_path)
            .map_err(text)?;
        images
            .set_len(self.disk_bytes * self.images)
            .map_err(text)?;
        let (mut unflushed, mut torn) = (0, 0);
        let mut told_at = Vec::new();
        let hard = disk_log.before_flushes();
        let end = disk_log.entries.len();
        for image in 0..self.images {
            let at = image * self.disk_bytes;
            if let Some(base) = base {
                copy(base, 0, &images, at, self.disk_bytes).map_err(text)?;
            }
            let earlier = self.limit.is_none() && image % 2 == 1 && !hard.is_empty();
            let cut = if earlier {
                hard[rng.below(hard.len() as u64) as usize]
            } else {
                end
            };
            let rebuilt = disk_log
                .rebuild(&mut images, at, cut, image / 2, &mut rng)
                .map_err(text)?;
            unflushed += rebuilt.unflushed;
            told_at.push(if earlier {
                let log_length = disk_log.end_of(cut - 1);
                let before = moments.iter().filter(|m| m.1 <= log_length);
                before.map(|m| m.0).max().unwrap_or(0)
            } else {
                journal_text.len() as u64
            });
            torn += rebuilt.torn;
        }
        let _ = writeln!(
            output,
            "cut {round}: {} acknowledged, {} writes and {} flushes on the disk; in {} images {unflushed} writes after the last flush, {torn} of them torn",
            told.count(),
            disk_log.writes(),
            disk_log.flushes(),
            self.images
        );
        if self.flush && disk_log.flushes() == 0 {
            return Err("the disk's log shows no flush at all".into());
        }
        if !self.flush && disk_log.flushes() != 0 {
            return Err("the disk's log shows flushes that were to be left out".into());
        }
        Ok(told_at)
    }

    /// Loads each image and compares.
    fn look(&self, round: u64, starts: &[u64], told_at: &[u64]) -> Result<Vec<Verdict>, String> {
        let mut verdicts: Vec<Verdict> = Vec::new();
        let told_at: Vec<String> = told_at.iter().map(u64::to_string).collect();
        while (verdicts.len() as u64) < self.images {
            let first = verdicts.len();
            let console = self
                .host
                .console(&format!("{}-{round}-look-{first}", self.name));
            let mut machine = Machine::new(self.host, &console);
            let journal = format!("{}:/hpkv-test/journal", self.file("journal").display());
            machine
                .option("--mem", self.mem)
                .option("--payload", journal)
                .option(
                    "--disk",
                    format!("{},cache=unsafe", self.file("images").display()),
                );
            let command = format!(
                "/hpkv-test/vmguest verify {} first={first} images={} stride={} device=/dev/vda journal=/hpkv-test/journal complete={} told={}",
                self.settings(starts),
                self.images,
                self.disk_bytes,
                self.limit.unwrap_or(0),
                told_at.join(",")
            );
            let patience = Duration::from_secs(self.host.dose(180, 900));
            let (lines, end) = machine.start(&command).rest(patience);
            for line in &lines {
                let mut words = line.splitn(4, ' ');
                if words.next() != Some("IMAGE") {
                    continue;
                }
                words.next();
                let verdict = words.next();
                let rest = words.next().unwrap_or("").to_string();
                verdicts.push(match verdict {
                    Some("GOOD") => Ok(rest.split(',').filter_map(|n| n.parse().ok()).collect()),
                    _ => Err(rest),
                });
            }
            if let Some(alarm) = console.alarm() {
                verdicts.push(Err(format!(
                    "the kernel says {alarm:?}, see {}",
                    console.path.display()
                )));
            } else if (verdicts.len() as u64) < self.images {
                let said = lines.join("\n");
                return Err(format!(
                    "the images were not all looked at ({end}): {said}\n{}",
                    console.tail(40)
                ));
            }
        }
        Ok(verdicts)
    }

    /// Cuts and looks `rounds` times; each cut begins with one of the images
    /// that the last one left.
    fn run(&self, rounds: u64, output: &mut String) -> Result<(), String> {
        let mut starts = vec![0; self.threads as usize];
        let mut base: Option<File> = None;
        let mut failures = Vec::new();
        let mut looked_at = 0;
        for round in 0..rounds {
            let told_at = self.cut(round, base.as_ref(), &starts, output)?;
            let verdicts = self.look(round, &starts, &told_at)?;
            looked_at += verdicts.len();
            let mut next = None;
            for (image, verdict) in verdicts.iter().enumerate() {
                match verdict {
                    Ok(held) => next = Some((image as u64, held.clone())),
                    Err(why) => failures.push(format!("cut {round}, image {image}: {why}")),
                }
            }
            if !failures.is_empty() {
                for what in ["disk", "log", "journal", "images"] {
                    let _ = writeln!(output, "kept: {}", self.file(what).display());
                }
                return Err(failures.join("\n    "));
            }
            if let Some((image, held)) = next {
                let text = |e: std::io::Error| e.to_string();
                let path = self.file("base");
                let images = File::open(self.file("images")).map_err(text)?;
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(path)
                    .map_err(text)?;
                file.set_len(self.disk_bytes).map_err(text)?;
                copy(&images, image * self.disk_bytes, &file, 0, self.disk_bytes).map_err(text)?;
                base = Some(file);
                starts = held;
            }
        }
        let _ = writeln!(
            output,
            "{rounds} cuts, {looked_at} images, none wrong; the last holds {starts:?} changes"
        );
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        for what in ["disk", "log", "journal", "images", "base"] {
            let _ = fs::remove_file(self.file(what));
        }
    }
}

/// Copies a range between sparse files, leaving zeros out.
fn copy(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < len {
        let n = usize::try_from((len - at).min(1 << 16)).expect("at most 64 KiB");
        from.read_exact_at(&mut buffer[..n], from_at + at)?;
        if buffer[..n].iter().any(|&b| b != 0) {
            to.write_all_at(&buffer[..n], to_at + at)?;
        }
        at += n as u64;
    }
    Ok(())
}

fn keeps_what_sync_acknowledged(host: &Host, output: &mut String) -> Result<(), String> {
    Campaign {
        host,
        name: "sync",
        seed: seed_of(&[host.seed, 10]),
        disk_bytes: 16 * MIB,
        threads: 6,
        keys: 120,
        value_len_max: 300_000,
        sync_every: 1,
        limit: None,
        clients: 0,
        client_writes: 0,
        parameters: "durability=sync",
        flush: true,
        images: 10,
        mem: "1024",
    }
    .run(host.dose(3, 20), output)
}

fn leaves_a_prefix(host: &Host, output: &mut String) -> Result<(), String> {
    Campaign {
        host,
        name: "prefix",
        seed: seed_of(&[host.seed, 11]),
        disk_bytes: 16 * MIB,
        threads: 4,
        keys: 150,
        value_len_max: 300_000,
        sync_every: 200,
        limit: None,
        clients: 0,
        client_writes: 0,
        parameters: "flush_interval_ms=300",
        flush: true,
        images: 10,
        mem: "1024",
    }
    .run(host.dose(2, 20), output)
}

fn keeps_every_record(host: &Host, output: &mut String) -> Result<(), String> {
    // Some of the changes delete, so there are more keys than records.
    let keys = host.dose(1_500, 31_000);
    Campaign {
        host,
        name: "records",
        seed: seed_of(&[host.seed, 12]),
        disk_bytes: host.dose(64 * MIB, 640 * MIB),
        threads: 4,
        keys,
        value_len_max: MIB,
        sync_every: 0,
        limit: Some(keys * 3 / 2),
        clients: 8,
        client_writes: host.dose(60, 2_000),
        parameters: "durability=buffered",
        flush: true,
        images: host.dose(3, 4),
        mem: host.dose("1536", "3072"),
    }
    .run(1, output)
}

fn notices_a_missing_flush(host: &Host, output: &mut String) -> Result<(), String> {
    let campaign = Campaign {
        host,
        name: "no-flush",
        seed: seed_of(&[host.seed, 13]),
        disk_bytes: 16 * MIB,
        threads: 6,
        keys: 120,
        value_len_max: 300_000,
        sync_every: 1,
        limit: None,
        clients: 0,
        client_writes: 0,
        parameters: "durability=sync",
        flush: false,
        images: 6,
        mem: "1024",
    };
    let starts = vec![0; 6];
    let told_at = campaign.cut(0, None, &starts, output)?;
    let verdicts = campaign.look(0, &starts, &told_at)?;
    let wrong = verdicts.iter().filter(|v| v.is_err()).count();
    let _ = writeln!(
        output,
        "{wrong} of {} images are wrong without flushes",
        verdicts.len()
    );
    if let Some(Err(why)) = verdicts.first() {
        let _ = writeln!(output, "the first: {why:.200}");
    }
    campaign.forget();
    if wrong == 0 {
        return Err("a disk that never flushed passed as a good one".into());
    }
    Ok(())
}
