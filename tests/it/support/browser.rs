//! Headless Chromium: pages as people see them, on a desk and on a phone, by day and by night.

use std::process::Command;

/// Takes one screenshot of a page that looks the same always, as paper does.
pub fn shows(url: &str, name: &str) {
    shot(url, name, "desk-day", (900, 1200), false);
}

/// Takes screenshots of a page in four settings and keeps them under `target/screenshots` for
/// whoever wants to look. Fails if the browser cannot show it, if it is the same by night as by
/// day, or if its own policy forbids something that it asks for.
pub fn look(url: &str, name: &str) {
    let shot = |setting: &str, size: (u32, u32), dark: bool| shot(url, name, setting, size, dark);
    let day = shot("desk-day", (1200, 1600), false);
    let night = shot("desk-night", (1200, 1600), true);
    assert!(day != night, "{url} is the same by night as by day");
    shot("phone-day", (412, 1800), false);
    shot("phone-night", (412, 1800), true);
}

fn shot(url: &str, name: &str, setting: &str, (width, height): (u32, u32), dark: bool) -> Vec<u8> {
    let keep = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    std::fs::create_dir_all(&keep).unwrap();
    let (profile, file) =
        (tempfile::tempdir().unwrap(), keep.join(format!("{name}-{setting}.png")));
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--hide-scrollbars",
    ]);
    chromium.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
    ]);
    chromium
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},{height}"));
    chromium.arg(format!("--screenshot={}", file.display()));
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    } else {
        chromium.arg("--blink-settings=preferredColorScheme=1");
    }
    let _ = std::fs::remove_file(&file);
    let output = chromium.arg(url).env("HOME", profile.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let png = std::fs::read(&file).unwrap_or_else(|_| panic!("no screenshot of {url}: {said}"));
    assert!(!said.contains("CONSOLE"), "the page complains: {said}");
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert!(
        png.starts_with(b"\x89PNG") && (size(16), size(20)) == (width, height),
        "{} x {}",
        size(16),
        size(20)
    );
    png
}
