//! The repository itself, as the tests of walls and sources see it.

use std::fs;
use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = own
        .ancestors()
        .nth(2)
        .expect("tests/suite lies two below the top");
    top.to_owned()
}

/// Where cargo builds, as the running test was built there: `<target>/<profile>/deps/<test>`.
pub fn target() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    own.ancestors()
        .nth(3)
        .expect("below the target directory")
        .to_owned()
}

/// All files, as sorted paths from the top, without what is built or fetched and without git's own.
///
/// # Panics
/// If a directory cannot be read: a test that sees half of the files must not pass.
pub fn files() -> Vec<PathBuf> {
    let root = root();
    let mut files = Vec::new();
    let mut todo = vec![root.clone()];
    while let Some(folder) = todo.pop() {
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("a directory's entry").path();
            let inside = path.strip_prefix(&root).expect("below the top").to_owned();
            let name = inside.to_str().expect("a path in UTF-8");
            if matches!(name, ".git" | ".cargo-home" | "target") || name.ends_with(".profraw") {
                continue;
            }
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else {
                files.push(inside);
            }
        }
    }
    files.sort();
    files
}
