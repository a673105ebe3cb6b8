//! localstack: S3 and KMS on a free loopback port, stopped when dropped.

use std::process::{Child, Command, Stdio};

pub struct Localstack {
    child: Child,
    pub port: u16,
    _directory: tempfile::TempDir,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port()
}

impl Localstack {
    pub fn start() -> Self {
        let python = super::tools().join("venv/bin/python");
        // A port may be taken between finding and binding it; then the next is tried.
        for _ in 0..3 {
            let port = free_port();
            let directory = super::directory();
            let stderr = std::fs::File::create(directory.path().join("log")).unwrap();
            let mut command = Command::new(&python);
            command.args(["-m", "localstack.runtime.main"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
            command.env("HOME", directory.path()).env("TMPDIR", directory.path());
            // An IPv4 address would be bound on all interfaces.
            command
                .env("GATEWAY_LISTEN", format!("[::1]:{port}"))
                .env("DISABLE_EVENTS", "1")
                .env("SKIP_SSL_CERT_DOWNLOAD", "1")
                .env("SERVICES", "s3,kms");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
            let log = directory.path().join("log");
            let mut this = Self { child: command.spawn().unwrap(), port, _directory: directory };
            let begun = std::time::Instant::now();
            while begun.elapsed() < std::time::Duration::from_secs(90) {
                if let Some(status) = this.child.try_wait().unwrap() {
                    eprintln!("localstack ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
                    break;
                }
                if this.answers() {
                    return this;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        panic!("localstack did not start in three attempts");
    }

    fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("::1", self.port)) else { return false };
        let _ = stream.write_all(b"GET /_localstack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    }

    pub fn endpoint(&self) -> String {
        format!("http://[::1]:{}", self.port)
    }

    /// Runs the AWS CLI against it and returns its JSON.
    #[track_caller]
    pub fn aws(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(super::tools().join("venv/bin/aws"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.args(["--endpoint-url", &self.endpoint(), "--output", "json"]).envs(credentials());
        command
    }
}

/// What AWS clients need to believe that they are somewhere.
pub fn credentials() -> [(&'static str, &'static str); 4] {
    [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]
}

impl Drop for Localstack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
