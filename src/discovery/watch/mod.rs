//! Those who follow the membership: long polls, which are answered when it changes, and streams of
//! events.
//!
//! Each has a connection and its thread for as long as it lasts, and sleeps nearly all of that time
//! ([`waiters`]).

mod events;
mod poll;
mod waiters;

pub(super) use events::Events;
pub(super) use poll::Poll;
use waiters::Want;
pub(super) use waiters::{Waiter, Waiters};
