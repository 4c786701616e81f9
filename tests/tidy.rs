//! House rules as tests: layers, sizes, docs, names. STYLE.md in a form that fails.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test may stop here"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const FILE_LINES_MAX: usize = 400;
const FORBIDDEN_NAMES: [&str; 7] = [
    "util", "utils", "common", "helper", "helpers", "misc", "types",
];

/// Who may import whom: strictly lower numbers.
const LAYERS: [(&str, u8); 20] = [
    ("main", 9),
    ("gateway", 9),
    ("cli", 9),
    ("config", 9),
    ("admin", 8),
    ("postgres", 6),
    ("redis", 6),
    ("mongodb", 6),
    ("session", 5),
    ("pool", 4),
    ("auth", 4),
    ("registry", 4),
    ("tenant", 3),
    ("net", 2),
    ("crypto", 2),
    ("telemetry", 1),
    ("shutdown", 1),
    ("signal", 1),
    ("fault", 0),
    ("protocol", 0),
];

/// Within the composition root the order is: main over cli, cli over gateway, gateway over config.
const ROOT_ORDER: [&str; 4] = ["config", "gateway", "cli", "main"];

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

impl Source {
    /// The lines before the tests that a file closes with.
    fn production(&self) -> Vec<&str> {
        let lines: Vec<_> = self.text.lines().collect();
        let end = lines
            .windows(2)
            .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests {"))
            .unwrap_or(lines.len());
        lines[..end].to_vec()
    }

    fn is_test(&self) -> bool {
        let name = self.path.file_stem().unwrap().to_str().unwrap();
        let inside = self.path.iter().any(|part| part == "tests");
        inside || name == "tests" || name == "simulation"
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(&root).unwrap();
                let first = inside
                    .components()
                    .next()
                    .unwrap()
                    .as_os_str()
                    .to_str()
                    .unwrap();
                let module = first.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: inside.to_owned(),
                    module,
                    text,
                });
            }
        }
    }
    assert!(
        found.len() > 30,
        "the sources are where they are looked for"
    );
    found
}

/// The top-level modules that a file names with `crate::`, `use crate::{a, b}` included.
fn imports(source: &Source) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let text: String = source
        .production()
        .iter()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        });
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            named.extend(group_heads(group));
        } else {
            named.insert(head(rest));
        }
    }
    named.remove("");
    named
}

fn head(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

/// The first names of `a::b, c::{d, e}}`, up to the brace that closes the group.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut fresh, mut heads) = (0, true, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if letter.is_whitespace() => {}
            _ if fresh && depth == 0 => {
                heads.push(head(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

#[test]
fn imports_go_strictly_downward() {
    let layers: BTreeMap<_, _> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = *layers
            .get(source.module.as_str())
            .unwrap_or_else(|| panic!("{} has no layer", source.path.display()));
        for named in imports(source) {
            let Some(&other) = layers.get(named.as_str()) else {
                continue;
            };
            let rank = |name: &str| ROOT_ORDER.iter().position(|one| *one == name);
            let root_edge = own == 9 && other == 9 && rank(&named) < rank(&source.module);
            if named != source.module && other >= own && !root_edge {
                wrong.push(format!("{} imports {named}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn wire_rooms_are_pure() {
    let allowed = ["fault", "protocol", "postgres", "redis", "mongodb"];
    let mut wrong = Vec::new();
    for source in sources() {
        if !source
            .path
            .components()
            .any(|part| part.as_os_str() == "wire")
            || source.is_test()
        {
            continue;
        }
        let code = source.production().join("\n");
        for word in ["tokio::", "async fn", "std::net", "std::io::Read"] {
            if code.contains(word) {
                wrong.push(format!("{} has {word}", source.path.display()));
            }
        }
        for named in imports(&source) {
            if !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} imports {named}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_documented_and_well_named() {
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.display();
        let lines = source.production().len();
        if lines > FILE_LINES_MAX && !source.is_test() {
            wrong.push(format!("{path}: {lines} lines"));
        }
        if !source.text.starts_with("//!") {
            wrong.push(format!("{path}: no module documentation"));
        }
        for part in source.path.iter().map(|part| part.to_str().unwrap()) {
            if FORBIDDEN_NAMES.contains(&part.trim_end_matches(".rs")) {
                wrong.push(format!("{path}: forbidden name"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn protocols_have_the_same_rooms() {
    const ROOMS: [&str; 7] = [
        "exchange", "login", "policy", "refusal", "session", "upstream", "wire",
    ];
    let sources = sources();
    for protocol in ["postgres", "redis", "mongodb"] {
        for room in ROOMS {
            let file = PathBuf::from(protocol).join(format!("{room}.rs"));
            let folder = PathBuf::from(protocol).join(room).join("mod.rs");
            let there = sources
                .iter()
                .any(|source| source.path == file || source.path == folder);
            assert!(there, "{protocol} has no {room}");
        }
    }
}

#[test]
fn metric_names_are_in_one_place() {
    for source in sources() {
        if source.path.ends_with("telemetry/names.rs") || source.is_test() {
            continue;
        }
        for line in source.production() {
            let metric = line.contains("\"polypool_") && line.contains("_total\"");
            assert!(!metric, "{}: {line}", source.path.display());
        }
    }
}

#[test]
fn logins_are_resolved_in_one_place() {
    for source in sources() {
        let outside = source.module != "session" && source.module != "registry";
        if outside && !source.is_test() {
            let calls = source
                .production()
                .iter()
                .any(|line| line.contains("registry.resolve("));
            assert!(!calls, "{} resolves a login", source.path.display());
        }
    }
}

#[test]
fn errors_of_the_protocols_are_spelled_in_refusal_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let refusal = source
            .path
            .iter()
            .any(|part| part.to_str().unwrap().starts_with("refusal"));
        if refusal || source.is_test() || !["postgres", "redis"].contains(&source.module.as_str()) {
            continue;
        }
        for line in source.production() {
            let code = line.split("//").next().unwrap();
            for text in [
                "\"-ERR ",
                "\"-NOPERM",
                "\"-NOAUTH",
                "\"-WRONGPASS",
                "b\"-ERR ",
            ] {
                if code.contains(text) {
                    wrong.push(format!("{}: {}", source.path.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for mark in marks {
                let named = line
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|word| word == mark);
                assert!(!named, "{}:{}: {mark}", source.path.display(), number + 1);
            }
        }
    }
}

#[test]
fn every_file_is_declared_by_a_module() {
    let sources = sources();
    for source in &sources {
        let name = source.path.file_stem().unwrap().to_str().unwrap();
        if ["lib", "main"].contains(&name) {
            continue;
        }
        let folder = source.path.parent().unwrap();
        let (module, parent) = if name == "mod" {
            (
                folder.file_name().unwrap().to_str().unwrap(),
                folder.parent().unwrap(),
            )
        } else {
            (name, folder)
        };
        let parents = [
            parent.join("mod.rs"),
            parent.with_extension("rs"),
            PathBuf::from("lib.rs"),
        ];
        let declared = sources
            .iter()
            .filter(|other| parents.contains(&other.path))
            .any(|other| {
                other.text.lines().any(|line| {
                    line.trim()
                        .trim_start_matches("pub(crate) ")
                        .trim_start_matches("pub(super) ")
                        .trim_start_matches("pub ")
                        .trim()
                        == format!("mod {module};")
                })
            });
        assert!(declared, "{} is declared by nobody", source.path.display());
    }
}

#[test]
fn links_of_the_architecture_page_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut links = 0;
    for (at, _) in page.match_indices("](") {
        let target = page[at + 2..].split(')').next().unwrap();
        if target.starts_with("http") || target.starts_with('#') {
            continue;
        }
        links += 1;
        assert!(root.join(target).exists(), "ARCHITECTURE.md names {target}");
    }
    assert!(links > 20, "the page walks through the code: {links} links");
}
