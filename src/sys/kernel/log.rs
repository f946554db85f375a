// SPDX-License-Identifier: GPL-2.0

//! Messages to the kernel's log.

use crate::sys::Level;
use core::fmt;

/// Prints one line at `level`; the kernel puts the module's name before it.
pub fn print_line(level: Level, args: fmt::Arguments<'_>) {
    match level {
        Level::Emerg => kernel::pr_emerg!("{}\n", args),
        Level::Alert => kernel::pr_alert!("{}\n", args),
        Level::Crit => kernel::pr_crit!("{}\n", args),
        Level::Err => kernel::pr_err!("{}\n", args),
        Level::Warning => kernel::pr_warn!("{}\n", args),
        Level::Notice => kernel::pr_notice!("{}\n", args),
        Level::Info => kernel::pr_info!("{}\n", args),
        // `pr_debug!` prints nothing unless the kernel was built with debug assertions; whether
        // this message is wanted has been decided by the module's own log level.
        Level::Debug => print_debug(args),
    }
}

/// Prints one line at the kernel's debug level.
fn print_debug(args: fmt::Arguments<'_>) {
    // SAFETY: The format string is one of the kernel's own, and the prefix that `module!` defines
    // ends with a zero byte.
    unsafe {
        kernel::print::call_printk(
            &kernel::print::format_strings::DEBUG,
            crate::__LOG_PREFIX,
            kernel::prelude::fmt!("{}\n", args),
        )
    };
}
