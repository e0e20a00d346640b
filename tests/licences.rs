//! Every crate that the tool is built of has a licence that `deny.toml` allows. `cargo deny` says more, and needs the network.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use system_tests::root;

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    let (_, list) = text.split_once("allow = [").expect("deny.toml allows licences");
    let (list, _) = list.split_once(']').expect("the list ends");
    let allowed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(allowed.contains("MIT") && allowed.len() > 5, "{allowed:?}");

    let host = "x86_64-unknown-linux-gnu";
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    let mut refused = Vec::new();
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("none");
        let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
        let fits = expression
            .is_ok_and(|expression| expression.evaluate(|licence| allowed.contains(licence.to_string().as_str())));
        if !fits {
            refused.push(format!("{}: {licence}", package["name"]));
        }
    }
    assert_eq!(refused, Vec::<String>::new(), "none of the licences of these is in deny.toml");
}
