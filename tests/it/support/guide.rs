//! `RESTORE.md` run exactly as it stands, with stock tools, in an environment without lifeboat.

use std::path::Path;
use std::process::Command;

/// The commands of a guide, with only the named way to open the identity.
pub fn commands(guide: &str, slot: &str) -> String {
    let mut commands = String::new();
    let mut heading = String::new();
    let mut within = false;
    for line in guide.lines() {
        match line {
            "```bash" => within = true,
            "```" => within = false,
            _ if within
                && (heading.is_empty() || heading.starts_with(&format!("Slot `{slot}`"))) =>
            {
                commands.push_str(&format!("{line}\n"))
            }
            _ if line.starts_with("Slot `") => line.clone_into(&mut heading),
            _ if line.starts_with("## ") => heading.clear(),
            _ => {}
        }
    }
    commands
}

/// Runs commands in an empty directory with nothing but Debian's programs (and what `more` adds) in
/// the environment.
pub fn run(directory: &Path, commands: &str, environment: &[(&str, &str)]) -> std::process::Output {
    std::fs::create_dir_all(directory).unwrap();
    let mut bash = Command::new("bash");
    bash.env_clear()
        .env("PATH", "/usr/lib/postgresql/15/bin:/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .envs(environment.iter().copied());
    bash.current_dir(directory).arg("-c").arg(commands).output().unwrap()
}

#[track_caller]
pub fn succeeded(output: &std::process::Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
