//! The programs as their users meet them: built, started as processes, spoken to over sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]
#![allow(unreachable_pub, dead_code)]

mod cli;
mod deploy;
mod door;
mod examples;
mod follow;
mod lifecycle;
mod overload;
mod python;
mod size;
mod state;
mod support;
mod tidy;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
mod tool;
mod up;
mod wire;
