//! What discovery knows, over a restart. So far the format it will be kept in: `journal`, pure.

pub mod journal;
