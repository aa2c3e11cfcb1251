//! What holds for every input there is, as functions of its bytes.
//!
//! Each of them panics where it does not hold. `tests/fuzz` has a fuzzer look for such bytes, guided
//! by what they reach; whatever it has found is in the corpus there, which the unit test below goes
//! through. The functions stand beside what they are about, in the `fuzzing` of its folder.

pub use crate::discovery::fuzzing::routes;
pub use crate::discovery::state::fuzzing::state;
pub use crate::http::fuzzing::door;
pub use crate::mesh::fuzzing::{answers, events};
pub use crate::wire::fuzzing::bodies;

/// One of them.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("answers", answers),
    ("bodies", bodies),
    ("door", door),
    ("events", events),
    ("routes", routes),
    ("state", state),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_a_fuzzer_once_found_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpus.join(name)).expect("a corpus");
            let mut count = 0;
            for file in files {
                let path = file.expect("an entry").path();
                let input = fs::read(&path).expect("a file");
                let held = catch_unwind(|| target(&input));
                assert!(held.is_ok(), "{}", path.display());
                count += 1;
            }
            assert!(count > 10, "{name} has a corpus of {count}");
        }
    }
}
