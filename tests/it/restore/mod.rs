//! Bringing a datastore back: on call, by hand, from a lost region, out of the cold, and the nights
//! of `docs/transcripts`.

mod compared;
mod damaged;
mod extensions;
mod guide;
mod killed;
mod lesser;
mod lost;
mod older_servers;
mod on_call;
mod thawing;
mod transcripts;
