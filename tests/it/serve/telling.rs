//! Who is told and who may look: mail and SNS as their servers see them, the page behind TLS, and
//! what systemd makes of the units.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::localstack::free_port;
use crate::support::{Cluster, Home, eventually};

fn home() -> (Cluster, Home) {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&source, "d");
    (source, home)
}

fn secret(home: &Home, name: &str, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(home.path(name), text).unwrap();
    std::fs::set_permissions(home.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
}

fn serve(home: &Home, check: impl FnOnce()) {
    let mut serving = home.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
    let _ = serving.kill();
    let _ = serving.wait();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// A mail server for one conversation at a time; keeps what it was sent.
fn mail_server() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mails = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&mails);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut say = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines();
            let mut mail = String::new();
            let _ = say.write_all(b"220 test ESMTP\r\n");
            while let Some(Ok(line)) = lines.next() {
                mail.push_str(&format!("{line}\n"));
                let answer: &[u8] = match line.split(' ').next().unwrap_or_default() {
                    "DATA" => b"354 go on\r\n",
                    "QUIT" => b"221 bye\r\n",
                    _ => b"250 ok\r\n",
                };
                let _ = say.write_all(answer);
                if line == "DATA" {
                    while let Some(Ok(line)) =
                        lines.next().filter(|line| line.as_ref().is_ok_and(|line| line != "."))
                    {
                        mail.push_str(&format!("{line}\n"));
                    }
                    kept.lock().unwrap().push(std::mem::take(&mut mail));
                    let _ = say.write_all(b"250 taken\r\n");
                }
            }
        }
    });
    (port, mails)
}

#[test]
fn mail_says_what_since_when_and_what_next() {
    let (_source, home) = home();
    let (port, mails) = mail_server();
    home.configure(&format!(
        "\n[notify.oncall]\nkind = \"smtp\"\nserver = \"127.0.0.1:{port}\"\nplain = true\nfrom = \"lifeboat@example.com\"\nto = [\"one@example.com\", \"two@example.com\"]\non = [\"stale\"]\n"
    ));
    serve(&home, || eventually("a mail came", || !mails.lock().unwrap().is_empty()));
    let mail = mails.lock().unwrap().concat();
    assert!(
        mail.contains("Subject: lifeboat: STALE: db") && mail.contains("RCPT TO:<two@example.com>"),
        "{mail}"
    );
    assert!(
        mail.contains("no backup that is believed")
            && mail.contains("since: ")
            && mail.contains("what next: lifeboat backup db"),
        "{mail}"
    );
    // What mail clients want, and what spam filters ask for.
    for header in [
        "Message-ID: <",
        "Date: ",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "host: ",
    ] {
        assert!(mail.contains(header), "{header}: {mail}");
    }
    // Beyond this host mail goes over TLS or not at all.
    home.reconfigure(&format!("127.0.0.1:{port}"), "mail.example.com");
    home.run(&["status"]).fails(2, &["mail goes without TLS to this host only"]);
    home.reconfigure("kind = \"smtp\"", "kind = \"pigeon\"");
    home.run(&["status"]).fails(2, &["pigeon", "smtp"]);
}

/// Half-open connections that somebody opens, by the thousand: backups go on, and the page comes
/// back by itself.
#[test]
fn a_thousand_half_open_connections_keep_no_backup_from_being_taken() {
    let (_source, home) = home();
    let port = free_port();
    home.configure(&format!("\n[serve]\nlisten = \"127.0.0.1:{port}\"\n"));
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    let often = "do = \"backup\"\ndatastores = [\"db\"]\nevery = \"3s\"\nstarting = 2026-01-01\n";
    std::fs::write(home.path("schedules/often.toml"), often).unwrap();
    let mut serving = home.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
    // As few descriptors as a careful unit would give it.
    let limited = Command::new("prlimit")
        .args(["--nofile=256:256", "--pid", &serving.id().to_string()])
        .status()
        .unwrap();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port));
    let answers = || {
        let asked = connect().and_then(|mut stream| {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            stream.write_all(
                format!(
                    "GET /healthz HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
                )
                .as_bytes(),
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        });
        asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert!(limited.success());
        eventually("it listens", answers);
        let mut held = Vec::new();
        for number in 0..1_000 {
            let Ok(mut stream) = connect() else { continue };
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: local");
            }
            held.push(stream);
        }
        assert!(held.len() > 900, "{}", held.len());
        let backups = || home.run(&["list", "--json"]).json().as_array().map_or(0, Vec::len);
        let before = backups();
        eventually("backups go on", || backups() >= before + 2);
        // Those that say nothing are closed, and somebody else gets in though all of them are still
        // open on this side.
        eventually("the page answers again", answers);
        drop(held);
    }));
    let _ = serving.kill();
    let _ = serving.wait();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
    let failed = home.run(&["status", "--json"]).json();
    assert!(
        !failed.to_string().contains("EMFILE")
            && !failed.to_string().contains("Too many open files"),
        "{failed}"
    );
}

/// A wrong password in the dead of night: its kind is told, and not a word of the server's.
#[test]
fn the_message_of_a_failed_backup_names_the_class_of_the_cause() {
    let (_source, home) = home();
    let (port, mails) = mail_server();
    home.configure(&format!(
        "\n[serve]\nlink = \"https://status.example.com/\"\n\n[notify.oncall]\nkind = \"smtp\"\nserver = \"127.0.0.1:{port}\"\nplain = true\nfrom = \"lifeboat@example.com\"\nto = [\"one@example.com\"]\non = [\"failed\"]\n"
    ));
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let connection = text.lines().find(|line| line.starts_with("connection")).unwrap();
    home.reconfigure(
        connection,
        "connection = \"host=127.0.0.1 port=1 dbname=d user=someone sslmode=disable\"",
    );
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    let often = "do = \"backup\"\ndatastores = [\"db\"]\nevery = \"2s\"\nstarting = 2026-01-01\nretries = 0\n";
    std::fs::write(home.path("schedules/often.toml"), often).unwrap();
    serve(&home, || eventually("a mail came", || !mails.lock().unwrap().is_empty()));
    let mail = mails.lock().unwrap().concat();
    assert!(mail.contains("nothing listens where the server should be"), "{mail}");
    assert!(
        mail.contains("https://status.example.com/")
            && mail.contains("host: ")
            && !mail.contains("someone"),
        "{mail}"
    );
}

/// The model is one recorded answer: what is tested is the request that the SDK makes of a message.
#[test]
fn a_topic_of_sns_gets_subject_and_text() {
    let (_source, mut home) = home();
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        home.set(name, "test");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let got = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&got);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
            });
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            kept.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
            let answer = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>";
            let _ = stream.write_all(
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                    answer.len()
                )
                .as_bytes(),
            );
        }
    });
    home.configure(&format!(
        "\n[notify.topic]\nkind = \"sns\"\ntopic = \"arn:aws:sns:eu-west-1:123456789012:backups\"\nendpoint = \"http://127.0.0.1:{port}\"\non = [\"stale\"]\n"
    ));
    serve(&home, || eventually("it was published", || !got.lock().unwrap().is_empty()));
    let body = got.lock().unwrap().concat();
    assert!(
        body.contains("Action=Publish")
            && body.contains("TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Abackups"),
        "{body}"
    );
    assert!(body.contains("Subject=lifeboat%3A%20STALE%3A%20db"), "{body}");
}

#[test]
fn beyond_this_host_the_page_needs_tls_a_client_certificate_and_the_token() {
    let (_source, home) = home();
    home.configure("\n[serve]\nlisten = \"0.0.0.0:1\"\n");
    home.run(&["serve"]).fails(2, &["served over TLS only", "127.0.0.1"]);
    let (page, client) = certificates(&home);
    home.reconfigure("listen = \"0.0.0.0:1\"", &format!("listen = \"0.0.0.0:1\"\n{page}"));
    home.run(&["serve"]).fails(2, &["who proves to be allowed", "bearer_token_file"]);
    secret(&home, "token", "0123456789abcdef\n", 0o644);
    home.reconfigure(
        "0.0.0.0:1\"",
        "0.0.0.0:1\"\nbearer_token_file = \"token\"\nclient_ca = \"ca.pem\"",
    );
    home.run(&["serve"]).fails(2, &["others may read this secret (mode 644)", "chmod 600"]);
    secret(&home, "token", "short\n", 0o600);
    home.run(&["serve"]).fails(2, &["less than 16 characters"]);
    secret(&home, "token", "0123456789abcdef\n", 0o600);
    secret(&home, "server.key", &std::fs::read_to_string(home.path("server.key")).unwrap(), 0o644);
    home.run(&["serve"]).fails(2, &["others may read this secret (mode 644)", "chmod 640"]);
    secret(&home, "server.key", &std::fs::read_to_string(home.path("server.key")).unwrap(), 0o640);
    let port = free_port();
    home.reconfigure("0.0.0.0:1", &format!("0.0.0.0:{port}"));
    serve(&home, || {
        let get = |certified: bool, token: Option<&str>| {
            ask(&home, port, certified.then_some(client.as_str()), token)
        };
        eventually("it answers", || get(true, Some("0123456789abcdef")).contains("200"));
        let answered = get(true, Some("0123456789abcdef"));
        assert!(answered.contains("strict-transport-security: max-age=31536000"), "{answered}");
        let refused = get(true, Some("0123456789abcdeX"));
        assert!(refused.contains("401") && refused.contains("www-authenticate"), "{refused}");
        assert!(get(true, None).contains("401"));
        assert!(
            get(false, Some("0123456789abcdef")).starts_with("error"),
            "without a client certificate there is no connection"
        );
        for (version, works) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
            let mut openssl = Command::new("openssl");
            openssl.args([
                "s_client",
                "-connect",
                &format!("127.0.0.1:{port}"),
                version,
                "-brief",
                "-cipher",
                "ALL:@SECLEVEL=0",
            ]);
            openssl
                .arg("-cert")
                .arg(home.path("client.pem"))
                .arg("-key")
                .arg(home.path("client.key"));
            let output = openssl.stdin(Stdio::null()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout);
            assert_eq!(said.contains("CONNECTION ESTABLISHED"), works, "{version}: {said}");
        }
        let plain = std::net::TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        });
        assert!(!plain.unwrap_or_default().contains("HTTP/1.1 200"));
    });
}

/// An authority, a server's and a client's certificate; the lines of the configuration, and the
/// client's PEM.
fn certificates(home: &Home) -> (String, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    std::fs::write(home.path("ca.pem"), certificate.pem()).unwrap();
    let mut client = String::new();
    for (name, subject) in [("server", "localhost"), ("client", "somebody")] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![subject.to_owned()]).unwrap();
        params.extended_key_usages = vec![match name {
            "server" => rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            _ => rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        std::fs::write(home.path(&format!("{name}.pem")), &certificate).unwrap();
        std::fs::write(home.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        client = certificate + &key.serialize_pem();
    }
    ("tls_certificate = \"server.pem\"\ntls_key = \"server.key\"".to_owned(), client)
}

/// GET of the metrics: status and headers, or the error.
fn ask(home: &Home, port: u16, client: Option<&str>, token: Option<&str>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let root =
            reqwest::Certificate::from_pem(&std::fs::read(home.path("ca.pem")).unwrap()).unwrap();
        let mut builder = reqwest::Client::builder()
            .tls_certs_only([root])
            .resolve("localhost", ([127, 0, 0, 1], port).into());
        if let Some(client) = client {
            builder = builder.identity(reqwest::Identity::from_pem(client.as_bytes()).unwrap());
        }
        let mut request = builder.build().unwrap().get(format!("https://localhost:{port}/metrics"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        match request.send().await {
            Ok(response) => {
                let headers = response.headers().iter().map(|(name, value)| {
                    format!("{name}: {}\n", value.to_str().unwrap_or_default())
                });
                format!("{}\n{}", response.status(), headers.collect::<String>())
            }
            Err(error) => format!("error {error:?}"),
        }
    })
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("NOT LOOKED AT: there is no systemd-analyze here");
        return;
    }
    let directory = crate::support::directory();
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/schedules/systemd");
    for entry in std::fs::read_dir(units).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // The program is not installed here; everything else is as it stands.
        std::fs::write(
            directory.path().join(entry.file_name()),
            text.replace("/usr/local/bin/lifeboat", "/bin/true"),
        )
        .unwrap();
    }
    for unit in ["lifeboat.service", "lifeboat-backup@chat.service", "lifeboat-backup@chat.timer"] {
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(directory.path().join(unit))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("lifeboat")).collect();
        assert!(output.status.success() && ours.is_empty(), "{unit}: {said}");
    }
}
