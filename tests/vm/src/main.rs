// SPDX-License-Identifier: GPL-2.0
//! The host's half of the end-to-end tests.
//!
//! ```text
//! vmtests [--list] [--full] [--seed N] [--module FILE] [--vm PROGRAM] [--guest FILE] [--out DIR] [NAME...]
//! ```
//!
//! Runs the tests whose names contain one of the words given (all without a
//! word), prints each one's name, result and time, and its output if it failed,
//! and ends with `N passed, N failed`. The consoles of all virtual machines are
//! kept in the folder for output; a warning, oops or lockup in one of them is a
//! failure of the test that ran, or else of the run. A run is repeated with the
//! seed it prints.
//!
//! The tests inside the guest share one machine, until one of them spoils it.
//! Power cuts each need a machine to kill and one to look at what is left.

mod machine;
mod powercut;

use machine::{Console, Host, Machine};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What became of a test.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    pub(crate) output: String,
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    fn take(&mut self, report: Report) {
        let Report {
            name,
            seconds,
            failure,
            output,
        } = report;
        match failure {
            None => {
                println!("test {name} ... ok ({seconds:.1} s)");
                // A passing test may have figures to tell.
                let lines: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
                for line in &lines[lines.len().saturating_sub(24)..] {
                    println!("    {line:.300}");
                }
                self.passed += 1;
            }
            Some(why) => {
                println!("test {name} ... FAILED ({seconds:.1} s): {why}");
                for line in output.lines() {
                    println!("    {line:.1000}");
                }
                self.failed.push(name);
            }
        }
    }
}

/// Runs tests inside the guest, in as many machines as they need.
fn run_in_guest(host: &Host, names: &[String], tally: &mut Tally) {
    let mut rest: Vec<String> = names.to_vec();
    let mut boot = 0;
    while !rest.is_empty() {
        boot += 1;
        let console = host.console(&format!("guest-{boot}"));
        let mut command = format!("/hpkv-test/vmguest run {}", rest.join(" "));
        if host.full {
            command = format!("HPKV_VMTEST_FULL=1 {command}");
        }
        let mut machine = Machine::new(host, &console);
        machine
            .option("--mem", "2048")
            .option("--modules", "loop dm-mod dm-delay");
        let mut child = machine.start(&command);
        let mut current: Option<(String, Instant)> = None;
        let mut output = String::new();
        let mut done = 0;
        let mut strange = String::new();
        // The longest test of all has a bound of its own inside the guest.
        while let Some(line) = child.line(Duration::from_secs(1_000)) {
            let Some(note) = line.strip_prefix("@@ ") else {
                let place = if current.is_some() {
                    &mut output
                } else {
                    &mut strange
                };
                place.push_str(&line);
                place.push('\n');
                continue;
            };
            let mut words = note.splitn(4, ' ');
            let (verb, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            match verb {
                "begin" => {
                    current = Some((name.to_string(), Instant::now()));
                    output.clear();
                }
                "pass" | "fail" => {
                    let seconds = words.next().and_then(|w| w.parse().ok()).unwrap_or(0.0);
                    let why = words.next().unwrap_or("").to_string();
                    tally.take(Report {
                        name: name.to_string(),
                        seconds,
                        failure: (verb == "fail").then_some(why),
                        output: std::mem::take(&mut output),
                    });
                    current = None;
                    done += 1;
                }
                _ => {}
            }
        }
        let end = child.end();
        if let Some((name, start)) = current {
            // The machine went down with this test.
            output.push_str(&console.tail(60));
            tally.take(Report {
                name,
                seconds: start.elapsed().as_secs_f64(),
                failure: Some(format!("the machine ended or fell silent ({end})")),
                output,
            });
            done += 1;
        } else if done == 0 {
            println!("{strange}{}", console.tail(60));
            tally
                .failed
                .push(format!("the machine did not run any test ({end})"));
            return;
        } else if let Some(alarm) = console.alarm()
            && tally.failed.is_empty()
        {
            println!("{}", console.tail(80));
            tally
                .failed
                .push(format!("{}: {alarm}", console.path.display()));
        }
        rest.drain(..done.min(rest.len()));
    }
}

fn usage() -> ExitCode {
    eprintln!(
        "usage: vmtests [--list] [--full] [--seed N] [--module FILE] [--vm PROGRAM] [--guest FILE] [--out DIR] [NAME...]"
    );
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let mut filters = Vec::new();
    let mut list = false;
    let build = PathBuf::from(std::env::var_os("HPKV_BUILD").unwrap_or_else(|| "build".into()));
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |d| d.as_secs());
    let mut host = Host {
        vm: "scripts/vm".into(),
        module: "hpkv.ko".into(),
        guest: None,
        out: build.join("vmtests"),
        full: std::env::var("HPKV_VMTEST_FULL").is_ok_and(|v| v == "1"),
        seed,
        payload: PathBuf::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        match word.as_str() {
            "--list" => list = true,
            "--full" => host.full = true,
            "--seed" => match value().parse() {
                Ok(seed) => host.seed = seed,
                Err(_) => return usage(),
            },
            "--module" => host.module = value().into(),
            "--vm" => host.vm = value().into(),
            "--guest" => host.guest = Some(value().into()),
            "--out" => host.out = value().into(),
            _ if word.starts_with('-') => return usage(),
            _ => filters.push(word),
        }
    }
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    if let Err(why) = host.prepare() {
        eprintln!("vmtests: {why}");
        return ExitCode::from(2);
    }
    let in_guest: Vec<String> = match host.guest_tests() {
        Ok(names) => names.into_iter().filter(|n| chosen(n)).collect(),
        Err(why) => {
            eprintln!("vmtests: {why}");
            return ExitCode::from(2);
        }
    };
    let power_cuts: Vec<&powercut::Test> =
        powercut::TESTS.iter().filter(|t| chosen(t.name)).collect();
    if list {
        for name in in_guest
            .iter()
            .map(String::as_str)
            .chain(power_cuts.iter().map(|t| t.name))
        {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    println!(
        "{} tests, {} dose, seed {}, consoles in {}",
        in_guest.len() + power_cuts.len(),
        if host.full { "full" } else { "short" },
        host.seed,
        host.out.display()
    );
    let mut tally = Tally::default();
    run_in_guest(&host, &in_guest, &mut tally);
    for test in power_cuts {
        let start = Instant::now();
        let mut output = String::new();
        let failure = (test.run)(&host, &mut output).err();
        let seconds = start.elapsed().as_secs_f64();
        tally.take(Report {
            name: test.name.to_string(),
            seconds,
            failure,
            output,
        });
    }
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!(
        "{} passed, {} failed ({:.0} s)",
        tally.passed,
        tally.failed.len(),
        start.elapsed().as_secs_f64()
    );
    if tally.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Shown by tests of what a console may not hold.
pub(crate) fn alarm_of(console: &Console) -> Result<(), String> {
    console.alarm().map_or(Ok(()), |alarm| {
        Err(format!(
            "the kernel says {alarm:?}, see {}",
            console.path.display()
        ))
    })
}
