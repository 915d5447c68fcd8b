//! Rules that the compiler does not enforce inside the root crate: its modules form no circle, and
//! every file states its purpose and stays short. The crates' Cargo.toml files say which crate may
//! use which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Module → the modules of the root crate that it names.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            p if p.is_dir() => sources(&p, found),
            p if p.extension().is_some_and(|x| x == "rs") => found.push(p),
            _ => {}
        }
    }
}

/// Whether an item exists only in tests, which may look at everything.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| match &a.meta {
        syn::Meta::List(list) => a.path().is_ident("cfg") && list.tokens.to_string() == "test",
        meta => meta.path().is_ident("test"),
    })
}

/// Collects the top-level modules that the code of one module names.
struct Names<'a> {
    modules: &'a BTreeSet<String>,
    /// The depth of the visited code: `super` leads to the crate's root from depth 1.
    depth: usize,
    found: BTreeSet<String>,
}

impl Names<'_> {
    /// A path as its segments, from `crate`, `super` or a name.
    fn path(&mut self, segments: &[String]) {
        let up = segments.iter().take_while(|s| *s == "super").count();
        let from_root = match segments.first().map(String::as_str) {
            Some("crate") => 1,
            Some("super") if up == self.depth => up,
            _ => return,
        };
        if let Some(name) = segments.get(from_root).filter(|name| self.modules.contains(*name)) {
            self.found.insert(name.clone());
        }
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.path(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.path(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.path(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|t| self.tree(before, t)),
        }
    }

    /// A macro's contents are tokens, and every `crate::name` in them counts.
    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut last = Vec::new();
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => {
                    last.clear();
                    self.tokens(group.stream());
                }
                proc_macro2::TokenTree::Ident(name) => {
                    last.push(name.to_string());
                    self.path(&last);
                }
                proc_macro2::TokenTree::Punct(p) if p.as_char() == ':' => {}
                _ => last.clear(),
            }
        }
    }
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Fn(f) => &f.attrs,
            syn::Item::Impl(i) => &i.attrs,
            syn::Item::Mod(m) => &m.attrs,
            syn::Item::Use(u) => &u.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.depth += 1;
        syn::visit::visit_item_mod(self, module);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.path(&segments);
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}

/// The graph of the top-level modules under `src`, without the crate's two roots.
fn graph(src: &Path) -> Graph {
    let mut files = Vec::new();
    sources(src, &mut files);
    let inside: Vec<(Vec<String>, PathBuf)> = files
        .into_iter()
        .map(|path| {
            let place = path.strip_prefix(src).unwrap().with_extension("");
            let names = place.iter().map(|n| n.to_str().unwrap().to_string());
            (names.filter(|n| n != "mod").collect(), path)
        })
        .filter(|(names, _): &(Vec<String>, _)| !matches!(names[0].as_str(), "lib" | "main"))
        .filter(|(names, _)| !names.iter().any(|n| n == "tests" || n == "testing"))
        .collect();
    let modules: BTreeSet<String> = inside.iter().map(|(names, _)| names[0].clone()).collect();
    let mut graph = Graph::new();
    for (names, path) in &inside {
        let file = syn::parse_file(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut visitor = Names { modules: &modules, depth: names.len(), found: BTreeSet::new() };
        visitor.visit_file(&file);
        visitor.found.remove(&names[0]);
        graph.entry(names[0].clone()).or_default().extend(visitor.found);
    }
    graph
}

/// A way from a module back to itself, if there is one.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn follow(graph: &Graph, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let last = way[way.len() - 1].clone();
        for next in graph.get(&last).into_iter().flatten() {
            if let Some(at) = way.iter().position(|m| m == next) {
                way.drain(..at);
                way.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                way.push(next.clone());
                if follow(graph, way, done) {
                    return true;
                }
                way.pop();
            }
        }
        done.insert(last);
        false
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| {
        let mut way = vec![module.clone()];
        follow(graph, &mut way, &mut done).then_some(way)
    })
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_modules_form_no_circle() {
    let graph = graph(&root().join("src"));
    assert!(graph.len() > 8 && graph["report"].contains("analysis"), "{graph:#?}");
    assert_eq!(circle(&graph), None, "{graph:#?}");
}

#[test]
fn a_circle_is_found_through_uses_paths_and_macros_but_not_through_tests() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, code: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, code).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c;");
    write("a.rs", "mod deep;");
    write("a/deep.rs", "use super::super::{b::x, std};");
    write("b.rs", "fn f() { println!(\"{}\", crate::c::y()); }");
    write("c/mod.rs", "#[cfg(test)] mod tests { use crate::a; } #[test] fn t() { crate::a::z(); }");
    assert_eq!(circle(&graph(dir.path())), None);
    write("c/more.rs", "fn g(_: crate::a::Deep) {}");
    assert_eq!(circle(&graph(dir.path())).unwrap(), ["a", "b", "c", "a"]);
}

#[test]
fn each_file_opens_with_what_it_is_for_and_stays_short() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    for entry in std::fs::read_dir(root().join("crates")).unwrap().flatten() {
        sources(&entry.path().join("src"), &mut files);
    }
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{} does not say what it is for", path.display());
        let lines = text.lines().count();
        assert!(lines <= 650, "{} has {lines} lines", path.display());
    }
}
