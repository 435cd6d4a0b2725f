//! `carrick ha drill`, as a person runs it.

use super::*;

fn drill(arguments: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let arguments: Vec<&str> = ["ha", "drill", "--faults", "2"].iter().chain(arguments).copied().collect();
    let done = command(dir.path(), &arguments).output().expect("run");
    (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
}

#[test]
fn the_same_seed_is_the_same_run_in_another_process() {
    let chaos = |seed: &str| drill(&["--scenario", "chaos", "--seed", seed, "--verbose"]);
    let (one, two) = (chaos("3"), chaos("3"));
    assert!(one.0 == Some(0) && one.1.contains("trace ") && one.1.contains("every promise held"), "{one:?}");
    let differs = one.1.lines().zip(two.1.lines()).find(|(one, two)| one != two);
    assert_eq!(differs, None);
    assert_ne!(one.1, chaos("4").1);
}

#[test]
fn a_fault_on_purpose_ends_with_1_and_names_the_promise() {
    let (code, text) = drill(&["--scenario", "clock-jump", "--break", "expire_on_step"]);
    assert!(code == Some(1) && text.contains("  BROKEN "), "{text}");
}
