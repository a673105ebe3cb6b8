//! localstack: S3 and KMS on a loopback port. `scripts/test` starts one for the whole run and says
//! where (`LIFEBOAT_TEST_LOCALSTACK`, a port); a test that finds none starts its own, and stops it
//! when it is dropped. Each test has a bucket of its own, and unless it asks for the
//! default account an account of its own: localstack takes an access key of twelve digits for the
//! account.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Mutex;

pub struct Localstack {
    _own: Option<Own>,
    pub port: u16,
    /// A name that no other test uses; the bucket is not made yet.
    pub bucket: String,
    pub access_key: String,
    cli: Mutex<Option<Cli>>,
}

/// The AWS CLI, started once for a test and asked many times: its imports take most of a second of
/// a core.
struct Cli {
    child: Child,
    answers: BufReader<ChildStdout>,
}

/// Each line is the arguments of one run; the answer is its exit status, what it wrote, and its
/// errors.
const CLI: &str = "
import contextlib, io, json, sys
from awscli.clidriver import create_clidriver
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = create_clidriver().main(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
";

impl Cli {
    fn ask(&mut self, arguments: &[&str]) -> (i64, String, String) {
        let asked = serde_json::to_string(arguments).unwrap() + "\n";
        self.child.stdin.as_mut().unwrap().write_all(asked.as_bytes()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {answer}"))
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Own {
    child: Child,
    _directory: tempfile::TempDir,
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap().port()
}

impl Localstack {
    /// In an account of its own.
    pub fn start() -> Self {
        Self::with_key(format!("{:012}", 1 + rand::random::<u64>() % 999_999_999_999))
    }

    /// In the account that localstack gives to whoever comes with an access key that is no number,
    /// as instances do.
    pub fn in_default_account() -> Self {
        Self::with_key("test".to_owned())
    }

    fn with_key(access_key: String) -> Self {
        let bucket = format!("backups-{}", hex::encode(rand::random::<[u8; 6]>()));
        let shared =
            std::env::var("LIFEBOAT_TEST_LOCALSTACK").ok().map(|port| port.parse().unwrap());
        let (own, port) = shared.map_or_else(
            || {
                let (own, port) = Self::launch();
                (Some(own), port)
            },
            |port| (None, port),
        );
        Self { _own: own, port, bucket, access_key, cli: Mutex::default() }
    }

    fn launch() -> (Own, u16) {
        let python = super::tools().join("venv/bin/python");
        // A port may be taken between finding and binding it; then the next is tried.
        for _ in 0..3 {
            let port = free_port();
            let directory = super::directory();
            let stderr = std::fs::File::create(directory.path().join("log")).unwrap();
            let mut command = Command::new(&python);
            command
                .args(["-m", "localstack.runtime.main"])
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap());
            command.env("HOME", directory.path()).env("TMPDIR", directory.path());
            // An IPv4 address would be bound on all interfaces.
            command
                .env("GATEWAY_LISTEN", format!("[::1]:{port}"))
                .env("DISABLE_EVENTS", "1")
                .env("SKIP_SSL_CERT_DOWNLOAD", "1")
                .env("SERVICES", "s3,kms");
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
            let log = directory.path().join("log");
            let mut own = Own { child: command.spawn().unwrap(), _directory: directory };
            let begun = std::time::Instant::now();
            while begun.elapsed() < std::time::Duration::from_secs(90) {
                if let Some(status) = own.child.try_wait().unwrap() {
                    eprintln!(
                        "localstack ended with {status}: {}",
                        std::fs::read_to_string(&log).unwrap_or_default()
                    );
                    break;
                }
                if answers(port) {
                    return (own, port);
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        panic!("localstack did not start in three attempts");
    }

    pub fn endpoint(&self) -> String {
        format!("http://[::1]:{}", self.port)
    }

    /// Runs the AWS CLI against it and returns its JSON.
    #[track_caller]
    pub fn aws(&self, arguments: &[&str]) -> serde_json::Value {
        let endpoint = self.endpoint();
        let mut cli = self.cli.lock().unwrap();
        let cli = cli.get_or_insert_with(|| {
            let mut python = Command::new(super::tools().join("venv/bin/python"));
            python
                .args(["-c", CLI])
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap())
                .envs(self.credentials());
            let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let answers = BufReader::new(child.stdout.take().unwrap());
            Cli { child, answers }
        });
        let (code, out, error) =
            cli.ask(&[&["--endpoint-url", &endpoint, "--output", "json"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {error}");
        serde_json::from_str(&out).unwrap_or(serde_json::Value::Null)
    }

    /// One run of the AWS CLI that may fail.
    pub fn command(&self) -> Command {
        let mut command = Command::new(super::tools().join("venv/bin/aws"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command
            .args(["--endpoint-url", &self.endpoint(), "--output", "json"])
            .envs(self.credentials());
        command
    }

    /// What AWS clients need to believe that they are somewhere.
    pub fn credentials(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ACCESS_KEY_ID", &self.access_key),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
    }
}

fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("::1", port)) else { return false };
    let _ = stream.write_all(
        b"GET /_localstack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
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
