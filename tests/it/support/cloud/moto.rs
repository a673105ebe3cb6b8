//! moto itself, on a loopback port. `scripts/test` starts one for the whole run and says where
//! (`LIFEBOAT_TEST_MOTO`, a port); a test that finds none starts its own, and stops it when it is
//! dropped. Where it is shared each test is in an account of its own, and sees the number of
//! the default one all the same: the front exchanges the two in both directions.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::{directory, tools};

pub struct Moto {
    _own: Option<Own>,
    pub port: u16,
    /// The account that stands for the default one.
    pub account: Option<String>,
}

struct Own {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Moto {
    pub fn start() -> Self {
        match std::env::var("LIFEBOAT_TEST_MOTO") {
            Ok(port) => {
                let account = format!("{:012}", 1 + rand::random::<u64>() % 999_999_999_999);
                Self { _own: None, port: port.parse().unwrap(), account: Some(account) }
            }
            Err(_) => Self::launch(),
        }
    }

    fn launch() -> Self {
        // Of its own: localstack brings a package of the same name.
        let program = tools().join("moto/bin/moto_server");
        assert!(
            program.exists(),
            "run scripts/install test first: {} is missing",
            program.display()
        );
        // A port may be taken between finding and binding it; then the next is tried.
        for _ in 0..3 {
            let port =
                std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = directory();
            let log = directory.path().join("log");
            let mut own = Own {
                child: Self::spawn(&program, port, directory.path(), &log),
                _directory: directory,
            };
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(90) {
                if let Some(status) = own.child.try_wait().unwrap() {
                    eprintln!(
                        "moto ended with {status}: {}",
                        std::fs::read_to_string(&log).unwrap_or_default()
                    );
                    break;
                }
                if answers(port) {
                    return Self { _own: Some(own), port, account: None };
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        panic!("moto did not start in three attempts");
    }

    fn spawn(program: &Path, port: u16, home: &Path, log: &Path) -> Child {
        let mut command = Command::new(program);
        command
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap());
        // Thousands of images, which would take seconds.
        command.env("HOME", home).env("TMPDIR", home).env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        let stderr = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
    }
}

fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream
        .write_all(b"GET /moto-api/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer.starts_with("HTTP/1.1 200")
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
