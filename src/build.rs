//! Packs the files that discovery serves as they are: in the binaries they take a quarter of the room,
//! and nearly every client takes them like this.

use std::io::Write as _;
use std::path::PathBuf;
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;

const FILES: [&str; 2] = ["page.html", "openapi.json"];

fn main() -> io::Result<()> {
    let folder = env::var_os("OUT_DIR").map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("cargo says where"))?;
    for name in FILES {
        let path = format!("src/discovery/{name}");
        writeln!(io::stdout(), "cargo::rerun-if-changed={path}")?;
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&fs::read(&path)?)?;
        fs::write(folder.join(format!("{name}.gz")), packed.finish()?)?;
    }
    Ok(())
}
