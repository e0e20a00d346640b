//! The same image boots everywhere: core counts across affinity levels and redistributor regions, and five machines.

use system_tests::{can_run, qemu};

#[test]
fn every_core_count_boots_completes_and_loses_nothing() {
    if !can_run() {
        return;
    }
    // 17 crosses an affinity level, 128 needs a second redistributor region, 512 is the most QEMU has.
    for cores in [1, 2, 4, 8, 17, 64, 128, 256, 512] {
        let run = qemu(&["--cores", &cores.to_string()]);
        run.expect(0, "clean");
        assert_eq!(run.number("/target/cores_up"), cores, "{run}");
        assert_eq!(run.number("/ipis/lost"), 0, "{run}");
        assert_eq!(run.text("/ended"), "complete", "{run}");
        assert_eq!(run.text("/verdict_scope"), "emulated", "{run}");
        assert!(run.number("/ipis/delivered") > 0, "{run}");
        // Every core took part: as a receiver of the default plan, or on one core as its own.
        let pairs = run.report["pairs"].as_array().expect("pairs");
        let receivers: std::collections::BTreeSet<u64> = pairs.iter().filter_map(|pair| pair["to"].as_u64()).collect();
        assert_eq!(receivers.len() as u64, cores, "receivers of {cores}\n{run}");
    }
}

#[test]
fn all_pairs_of_64_cores_are_measured() {
    if !can_run() {
        return;
    }
    let plan = "name = \"pairs\"\n[[phase]]\nname = \"matrix\"\npattern = \"matrix\"\ncount = 8\n";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pairs.toml");
    std::fs::write(&file, plan).expect("a plan");
    let run = qemu(&["--cores", "64", "--plan", file.to_str().expect("a path")]);
    run.expect(0, "clean");
    assert_eq!(run.report["pairs"].as_array().expect("pairs").len(), 64 * 63, "{run}");
    assert_eq!(run.number("/ipis/sent"), 64 * 63 * 8, "{run}");
}

#[test]
fn the_same_image_is_clean_on_every_machine() {
    if !can_run() {
        return;
    }
    let mut images = std::collections::BTreeSet::new();
    for (machine, entry_el, conduit, hz) in [
        ("virt", 1, "hvc", 1_000_000_000),
        ("virt-el2", 2, "smc", 1_000_000_000),
        ("virt-el3", 3, "none", 1_000_000_000),
        ("imx8mp-evk", 2, "smc", 8_000_000),
        ("xlnx-versal-virt", 2, "smc", 62_500_000),
    ] {
        let run = qemu(&["--machine", machine]);
        run.expect(0, "clean");
        assert_eq!(run.number("/target/entry_el"), entry_el, "{machine}\n{run}");
        assert_eq!(run.number("/target/run_el"), 1, "{machine}\n{run}");
        assert_eq!(run.text("/target/psci_conduit"), conduit, "{machine}\n{run}");
        assert_eq!(run.number("/target/counter_hz"), hz, "{machine}\n{run}");
        images.insert(run.report["build"]["firmware"].to_string());
    }
    assert_eq!(images.len(), 1, "one image for all: {images:?}");
}

#[test]
fn a_named_core_type_brings_its_own_counter() {
    if !can_run() {
        return;
    }
    let run = qemu(&["--cpu", "cortex-a72", "--plan", "self", "--cores", "2"]);
    run.expect(0, "clean");
    assert_eq!(run.number("/target/counter_hz"), 62_500_000, "{run}");
}
