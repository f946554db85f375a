// SPDX-License-Identifier: GPL-2.0
//! The guest's half of the end-to-end tests: runs as root in the virtual
//! machine, loads and unloads the module, and talks to it as users do.
//!
//! ```text
//! vmguest list
//! vmguest run NAME...        several tests, each in a process of its own
//! vmguest one NAME           one test, in this process
//! vmguest load NAME=VALUE... writes until it is killed
//! vmguest verify NAME=VALUE...
//! ```
//!
//! `run` frames each test by lines that the runner reads:
//! `@@ begin NAME`, then `@@ pass NAME SECONDS` or `@@ fail NAME SECONDS WHY`.
//! After a failure that may have left the kernel in a bad state it ends with
//! `@@ spoilt`, and the runner goes on in a new machine.

mod bad;
mod basics;
mod dev;
mod kit;
mod life;
mod persist;
mod powercut;
mod space;
mod sys;

use kit::{LogMark, is_alarm, is_loaded};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

struct Test {
    name: &'static str,
    run: fn(),
    /// A bound for hopeless cases, of the full dose.
    seconds: u64,
}

/// The bound of the short dose.
const SHORT_SECONDS: u64 = 150;

macro_rules! tests {
    ($($module:ident::$name:ident $(, $seconds:literal s)?;)*) => {
        const TESTS: &[Test] = &[$(Test {
            name: stringify!($name),
            run: $module::$name,
            seconds: [120 $(, $seconds)?][[0 $(, $seconds)?].len() - 1],
        }),*];
    };
}

tests! {
    basics::readme_session_over_nc_is_byte_for_byte;
    basics::values_are_never_glued_to_ok_and_a_missing_key_never_hangs;
    basics::split_and_pipelined_lines_are_put_together;
    basics::after_n_requests_the_close_loses_no_reply;
    basics::ioctls_store_and_return_any_bytes;
    basics::flags_and_expiry_are_kept_beside_the_value;
    basics::an_expired_value_is_gone;
    basics::conditions_hold_or_change_nothing;
    basics::every_bad_ioctl_has_the_errno_of_the_header;
    basics::a_small_buffer_is_told_the_size_and_left_alone;
    basics::bad_pointers_are_efault_and_change_nothing;
    basics::older_and_newer_structures_are_served;
    basics::a_32_bit_caller_is_served;
    basics::changes_need_a_file_open_for_writing;
    basics::purge_is_for_administrators_only;
    basics::scans_are_ordered_bounded_and_resumable;
    basics::the_device_is_for_root_and_its_group;
    basics::echo_stores_and_cat_dumps_in_order;
    basics::a_dump_in_small_reads_is_whole_while_others_write;
    basics::proc_stats_begin_with_the_three_promised_lines;
    basics::every_parameter_is_described_and_has_its_default;
    basics::a_bad_parameter_fails_insmod_with_one_clear_line;
    basics::log_level_decides_what_is_printed;
    basics::without_a_device_nothing_is_kept_and_nothing_pretends;
    basics::port_0_means_no_listener_and_bind_is_obeyed;
    basics::eight_clients_and_four_ioctl_threads_agree;
    basics::the_clients_counter_follows_the_clients;
    persist::unload_and_load_keep_everything;
    persist::a_purge_is_for_good;
    persist::buffered_writes_reach_the_device_within_the_flush_interval;
    persist::durability_sync_holds_for_every_interface;
    persist::loop_switches_at_run_time_and_keeps_the_old_one_on_errors;
    persist::switches_under_load_lose_and_double_nothing, 600 s;
    bad::a_missing_device_is_refused;
    bad::a_regular_file_is_refused_untouched;
    bad::a_device_of_ext4_is_refused_untouched;
    bad::an_empty_device_is_refused_if_asked;
    bad::a_truncated_device_is_refused_untouched;
    bad::damage_is_told_and_never_served;
    bad::a_read_only_device_changes_nothing;
    bad::a_port_in_use_is_refused;
    bad::mount_path_and_loop_exclude_each_other;
    bad::the_device_is_ours_alone_while_it_is_in_use;
    bad::lengths_out_of_range_are_refused_by_every_interface;
    bad::a_line_of_10_mib_is_answered_with_an_error_and_closed;
    bad::noise_on_the_port_harms_nobody;
    bad::two_thousand_connections_are_bounded_and_let_go;
    life::rmmod_is_refused_while_the_device_is_open;
    life::rmmod_closes_its_clients_and_keeps_what_it_acknowledged;
    life::load_and_unload_under_load_leak_nothing, 600 s;
    space::a_small_device_is_overwritten_for_ever, 900 s;
    space::a_full_device_reads_deletes_and_recovers_its_space;
    space::no_get_waits_for_a_slow_disk, 300 s;
    space::a_writer_that_waits_for_room_can_be_interrupted;
    space::a_failed_device_turns_the_store_read_only_and_loses_nothing_durable;
}

fn one(name: &str) -> ExitCode {
    let Some(test) = TESTS.iter().find(|t| t.name == name) else {
        eprintln!("there is no test {name}");
        return ExitCode::from(2);
    };
    (test.run)();
    ExitCode::SUCCESS
}

/// Removes what a test that failed may have left behind. Returns why the
/// machine cannot be used any longer, if so.
fn clean_up() -> Result<(), String> {
    let start = Instant::now();
    while is_loaded() {
        match sys::module_unload("hpkv") {
            Ok(()) => break,
            Err(e) if start.elapsed() > Duration::from_secs(10) => {
                return Err(format!(
                    "the module cannot be unloaded: {}",
                    kit::name_of(e)
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    if fs::metadata("/dev/mapper/slow").is_ok() {
        space::remove_slow();
    }
    for number in 40..60 {
        if fs::metadata(format!("/sys/block/loop{number}/loop")).is_ok() {
            kit::detach(number);
        }
        let _ = fs::remove_file(format!("/tmp/loop{number}.img"));
    }
    Ok(())
}

/// Runs a test in a process of its own. Returns whether it passed, and why not.
fn in_a_process(test: &Test) -> Result<(), String> {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["one", test.name])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a process for the test");
    let seconds = if kit::full_dose() {
        test.seconds
    } else {
        test.seconds.min(SHORT_SECONDS)
    };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) | Err(_) => {}
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            // Shows in the console where everybody waits.
            let _ = fs::write("/proc/sysrq-trigger", "w");
            sys::kill_group(child.id() as i32);
            let end = Instant::now();
            while end.elapsed() < Duration::from_secs(5) {
                if matches!(child.try_wait(), Ok(Some(_))) {
                    return Err(format!("did not end within {seconds} s"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            return Err(format!(
                "did not end within {seconds} s and cannot be killed"
            ));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn note(text: &str) {
    if let Ok(mut log) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = log.write_all(format!("vmguest: {text}\n").as_bytes());
    }
}

fn run(names: &[String]) -> ExitCode {
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on");
    let _ = fs::write("/proc/sys/kernel/hung_task_timeout_secs", "60");
    let mut good = true;
    for name in names {
        let Some(test) = TESTS.iter().find(|t| t.name == name) else {
            println!("@@ fail {name} 0.0 there is no such test");
            good = false;
            continue;
        };
        println!("@@ begin {name}");
        note(&format!("begin {name}"));
        let mut log = LogMark::new();
        let start = Instant::now();
        let result = in_a_process(test);
        let seconds = start.elapsed().as_secs_f64();
        let cleaned = clean_up();
        let lines = log.lines();
        let alarms: Vec<&String> = lines.iter().filter(|l| is_alarm(l)).collect();
        let mut reasons = Vec::new();
        if let Err(why) = &result {
            reasons.push(why.clone());
        }
        if let Err(why) = &cleaned {
            reasons.push(why.clone());
        }
        if let Some(alarm) = alarms.first() {
            reasons.push(format!("the kernel says {alarm:?}"));
        }
        note(&format!("end {name}"));
        if reasons.is_empty() {
            println!("@@ pass {name} {seconds:.1}");
            continue;
        }
        good = false;
        for line in lines.iter().rev().take(60).rev() {
            println!("dmesg: {line}");
        }
        println!("@@ fail {name} {seconds:.1} {}", reasons.join("; "));
        if cleaned.is_err() || !alarms.is_empty() {
            println!("@@ spoilt");
            return ExitCode::FAILURE;
        }
    }
    println!("@@ end");
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rest = || words.iter().skip(1).cloned();
    match words.first().map(String::as_str) {
        Some("list") => {
            for test in TESTS {
                println!("{}", test.name);
            }
            ExitCode::SUCCESS
        }
        Some("run") => run(&words[1..]),
        Some("one") if words.len() == 2 => one(&words[1]),
        Some("fill") => {
            space::fill();
            ExitCode::SUCCESS
        }
        Some("load") => {
            powercut::load(&powercut::Settings::parse(rest()));
            ExitCode::SUCCESS
        }
        Some("verify") => {
            let _ = fs::write("/proc/sys/kernel/hung_task_timeout_secs", "60");
            if powercut::verify(&powercut::Settings::parse(rest())) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        _ => {
            eprintln!("usage: vmguest list | run NAME... | one NAME | load ... | verify ...");
            ExitCode::from(2)
        }
    }
}
