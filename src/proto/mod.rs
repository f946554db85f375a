// SPDX-License-Identifier: GPL-2.0

//! What clients say over a stream of bytes, and what they are answered.
//!
//! Portable and pure: no input or output, no allocation, no knowledge of the store. A front end
//! feeds a [`line::LineBuffer`] with chunks as they arrive, takes whole lines out of it, hands each
//! to [`text::parse`], does what the request asks, and writes the answer with the encoders of
//! [`text`].
//!
//! Everything here works on bytes of a client: nothing indexes, unwraps or overflows on them.

pub(crate) mod line;
pub(crate) mod text;
