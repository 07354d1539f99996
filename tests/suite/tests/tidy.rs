//! What a reader relies on, held by reading the sources: small files, short functions, `unsafe` in its one place, no std in the
//! crates that do without, no path of somebody's machine.
//!
//! The tables of exceptions are ratchets: an entry must be exact, so it shrinks with the code and never grows unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bywash_tests::workspace;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FILE_LINES: usize = 700;
const FUNCTION_LINES: usize = 80;

/// Files over the limit, with their exact length.
const LONG_FILES: [(&str, usize); 0] = [];
/// Functions over the limit, as `path::name`, with their exact length.
const LONG_FUNCTIONS: [(&str, usize); 0] = [];

/// All sources, as paths from the root of the repository.
fn sources(extensions: &[&str]) -> Vec<PathBuf> {
    let matches = |path: &Path| {
        path.extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|one| extensions.contains(&one))
    };
    let files: Vec<_> = workspace::files()
        .into_iter()
        .filter(|path| matches(path))
        .collect();
    assert!(!files.is_empty(), "no file ends in {extensions:?}");
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(workspace::root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn parse(path: &Path) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails on everything over the limit that is not in the table, and on every entry that is not exact.
fn ratchet(
    what: &str,
    limit: usize,
    found: &BTreeMap<String, usize>,
    exceptions: &[(&str, usize)],
) {
    let exceptions: BTreeMap<_, _> = exceptions
        .iter()
        .map(|(name, lines)| ((*name).to_owned(), *lines))
        .collect();
    let over: BTreeMap<_, _> = found
        .iter()
        .filter(|(_, lines)| **lines > limit)
        .map(|(name, lines)| (name.clone(), *lines))
        .collect();
    assert_eq!(
        over, exceptions,
        "{what} over {limit} lines (left: found, right: the table of exceptions)"
    );
    let longest = found.iter().max_by_key(|(_, lines)| **lines);
    println!("longest of {} {what}: {longest:?}", found.len());
}

#[test]
fn files_are_short() {
    let mut lengths = BTreeMap::new();
    for path in sources(&["rs", "c", "h", "sh"]) {
        lengths.insert(path.display().to_string(), read(&path).lines().count());
    }
    ratchet("files", FILE_LINES, &lengths, &LONG_FILES);
}

/// Collects the lines of every function, from its signature to its closing brace.
struct Functions<'a> {
    path: &'a Path,
    lengths: &'a mut BTreeMap<String, usize>,
}

impl Functions<'_> {
    fn note(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        let longest = self
            .lengths
            .entry(format!("{}::{}", self.path.display(), signature.ident))
            .or_default();
        // Two of one name in a file: the longer one counts.
        *longest = lines.max(*longest);
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.note(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.note(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[test]
fn functions_are_short() {
    let mut lengths = BTreeMap::new();
    for path in sources(&["rs"]) {
        Functions {
            path: &path,
            lengths: &mut lengths,
        }
        .visit_file(&parse(&path));
    }
    for path in sources(&["c", "h"]) {
        c_functions(&path, &mut lengths);
    }
    ratchet("functions", FUNCTION_LINES, &lengths, &LONG_FUNCTIONS);
}

/// C functions by layout: a line at the margin that ends in `{` and has parentheses, up to a `}` at the margin.
fn c_functions(path: &Path, lengths: &mut BTreeMap<String, usize>) {
    let text = read(path);
    let mut open: Option<(String, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        let at_margin = !line.starts_with([' ', '\t', '/', '*']);
        if at_margin && line.starts_with('}') {
            if let Some((name, start)) = open.take() {
                lengths.insert(format!("{}::{name}", path.display()), number - start + 1);
            }
        } else if at_margin && (line.ends_with('{') && line.contains(')') || line == "{") {
            let name = line
                .split('(')
                .next()
                .and_then(|head| head.split_whitespace().last())
                .unwrap_or("?");
            open = Some((name.to_owned(), number));
        }
    }
}

/// Whether a file has an `unsafe` block, function, impl or trait.
#[derive(Default)]
struct Unsafe(Vec<usize>);

impl<'ast> Visit<'ast> for Unsafe {
    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.0.push(block.unsafe_token.span.start().line);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0
            .extend(signature.unsafety.map(|token| token.span.start().line));
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.0
            .extend(item.unsafety.map(|token| token.span.start().line));
        visit::visit_item_impl(self, item);
    }
}

/// Folders that may have `unsafe` beside bywash-xsk, each with its reason.
const UNSAFE_ELSEWHERE: [&str; 7] = [
    // A raw AF_XDP peer, whose crate has an unsafe interface.
    "bench/src/raw",
    // Calls of code for wider vectors than the target's.
    "stack/sum/src",
    // ioctl(SIOCETHTOOL).
    "stack/ethtool/src",
    // fork, and the child's system calls.
    "stack/guard/src",
    // packetdrill's table of C functions over raw pointers, and the `Send` that a lock makes true.
    "stack/packetdrill/src/abi",
    "stack/packetdrill/src/gate.rs",
    // The calling side of that table.
    "tests/scripts/src/table.rs",
];

#[test]
fn unsafe_is_in_xsk_and_where_there_is_a_reason() {
    let mut elsewhere = Vec::new();
    let mut in_xsk = 0;
    for path in sources(&["rs"]) {
        let mut found = Unsafe::default();
        found.visit_file(&parse(&path));
        if path.starts_with("stack/xsk") {
            in_xsk += found.0.len();
        } else if !UNSAFE_ELSEWHERE
            .iter()
            .any(|folder| path.starts_with(folder))
        {
            elsewhere.extend(
                found
                    .0
                    .iter()
                    .map(|line| format!("{}:{line}", path.display())),
            );
        }
    }
    assert!(in_xsk > 0, "no unsafe in stack/xsk: this test sees nothing");
    assert!(
        elsewhere.is_empty(),
        "unsafe outside stack/xsk: {elsewhere:#?}"
    );
}

/// Collects paths that start at `std`, and `extern crate std`, outside of test modules and files.
#[derive(Default)]
struct Std(Vec<usize>);

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute
            .meta
            .require_list()
            .map(|list| list.tokens.to_string());
        attribute.path().is_ident("cfg") && text.is_ok_and(|text| text == "test")
    })
}

impl<'ast> Visit<'ast> for Std {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::ExternCrate(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test_only(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        if item.ident == "std" {
            self.0.push(item.ident.span().start().line);
        }
    }

    fn visit_use_path(&mut self, path: &'ast syn::UsePath) {
        if path.ident == "std" {
            self.0.push(path.ident.span().start().line);
        }
        visit::visit_use_path(self, path);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path
            .segments
            .first()
            .is_some_and(|first| first.ident == "std")
            && path.segments.len() > 1
        {
            self.0.push(path.span().start().line);
        }
        visit::visit_path(self, path);
    }
}

#[test]
fn wire_and_tcp_reach_nothing_of_std() {
    let mut found = Vec::new();
    for path in sources(&["rs"]) {
        let ours = path.starts_with("stack/wire/src") || path.starts_with("stack/tcp/src");
        let tests = path.iter().any(|part| {
            let part = part.to_str().expect("a path in UTF-8");
            part == "tests" || part.trim_end_matches(".rs").ends_with("tests")
        });
        if ours && !tests {
            let mut std = Std::default();
            std.visit_file(&parse(&path));
            found.extend(
                std.0
                    .iter()
                    .map(|line| format!("{}:{line}", path.display())),
            );
        }
    }
    assert!(found.is_empty(), "std outside of tests: {found:#?}");
}

#[test]
fn the_top_level_is_what_the_readme_says() {
    let root = workspace::root();
    let mut folders = Vec::new();
    for entry in fs::read_dir(&root).expect("the repository") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let hidden_or_built = name.starts_with('.') || name == "target";
        if entry.file_type().expect("a type").is_dir() && !hidden_or_built {
            folders.push(name);
        }
    }
    folders.sort();
    let mut expected = vec!["bench", "deploy", "specs", "stack", "tests", "xdp-prog"];
    // The plan of the open issue; it goes when the issue ends, and its folder with it.
    if root.join("docs/plan.md").exists() {
        expected.insert(2, "docs");
    }
    assert_eq!(folders, expected);
}

#[test]
fn no_path_of_a_machine() {
    // Put together here, so that this file does not find itself.
    let paths = ["work", "home", "root"].map(|name| format!("/{name}/"));
    let mut found = Vec::new();
    for path in workspace::files() {
        let bytes = fs::read(workspace::root().join(&path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for needle in &paths {
            if bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes())
            {
                found.push(format!("{}: {needle}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn ci_runs_what_people_run() {
    let script = read(Path::new(".ci/run"));
    let commands: Vec<_> = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert!(
        commands.iter().any(|line| line.contains("./tests/run.sh")),
        "{commands:?}"
    );
}
