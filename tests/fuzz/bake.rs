//! Targets of bake files: HCL, and the forms in JSON and YAML. Whatever a file says, reading it ends, with
//! targets that can be printed or with an error that points to its cause; what was printed means itself.

use std::collections::BTreeMap;

use lapstrake::bake::{Chosen, File, Given, World, read};

use super::{check_diagnostic, choice};

/// Reads a bake file in HCL and prints all its targets.
pub fn hcl(data: &[u8]) {
    bake("docker-bake.hcl", data);
}

/// The first byte chooses: compose (YAML), JSON, or what the text looks like.
pub fn compose(mut data: &[u8]) {
    let name = match choice(&mut data) % 3 {
        0 => "compose.yaml",
        1 => "docker-bake.json",
        _ => "docker-bake",
    };
    bake(name, data);
}

fn bake(name: &str, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(chosen) = choose(name, text, &["*"]) else { return };
    let print = printed(&chosen);
    // Printed text has lost what was a template and what was not.
    if text.len() < 4000 && !print.contains("${") && !print.contains("%{") && !print.contains("$${")
    {
        let names: Vec<&str> = chosen.wanted.iter().map(String::as_str).collect();
        if names.is_empty() {
            return;
        }
        let again = choose("printed.json", &print, &names).expect("it was read before");
        assert_eq!(printed_targets(&again), printed_targets(&chosen), "{print}");
    }
}

fn choose(name: &str, text: &str, asked: &[&str]) -> Option<Chosen> {
    let variable = |name: &str| match name {
        "TAG" => Some("v1".to_owned()),
        "LONG" => Some("x".repeat(1000)),
        _ => None,
    };
    let world = World {
        variable: &variable,
        now: 1_700_000_000,
        home: Some("/home/me".to_owned()),
        random: &|| [7; 16],
        // What it includes and extends is the file itself, under other names.
        file: &|name| match name.len() {
            0..=8 => Ok(text.to_owned()),
            _ => Err("no such file".to_owned()),
        },
    };
    let given = Given {
        variables: BTreeMap::from([("GIVEN".to_owned(), "1".to_owned())]),
        builtins: BTreeMap::from([("BAKE_LOCAL_PLATFORM".to_owned(), "linux/amd64".to_owned())]),
        dotenv: BTreeMap::new(),
    };
    let files = [File { name: name.to_owned(), text: text.to_owned() }];
    let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
    let sets = ["*.args.SET=1".to_owned()];
    let chosen = read(&files, &given, &world).and_then(|config| {
        let sets = if config.targets.is_empty() { &[] } else { &sets[..] };
        config.choose(&asked, sets, &variable)
    });
    match chosen {
        Ok(chosen) => Some(chosen),
        Err(error) => {
            check_diagnostic(&error.diagnostic, if error.file.is_some() { text } else { "" });
            None
        }
    }
}

fn printed_targets(chosen: &Chosen) -> BTreeMap<&str, serde_json::Value> {
    let targets = chosen.targets.iter();
    targets.map(|(name, target)| (name.as_str(), target.to_json())).collect()
}

fn printed(chosen: &Chosen) -> String {
    serde_json::json!({ "target": printed_targets(chosen) }).to_string()
}
