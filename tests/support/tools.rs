//! Other people's programs as independent readers and takers of what lapstrake writes.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs a command as this process's user and expects success.
#[track_caller]
pub fn tool(program: &str, args: &[&str]) -> String {
    let output = try_tool(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command as this process's user.
pub fn try_tool(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// `skopeo inspect --raw` as JSON.
#[track_caller]
pub fn skopeo_raw(image: &str) -> Value {
    serde_json::from_str(&tool("skopeo", &["inspect", "--tls-verify=false", "--raw", image]))
        .expect("skopeo prints JSON")
}

/// docker-registry from apt on a free port of the loopback interface, killed when dropped.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    /// Its certificate authority, if it speaks TLS.
    pub ca: Option<PathBuf>,
    dir: tempfile::TempDir,
}

/// An address of this machine that is not loopback; loopback if there is no other.
pub fn own_address() -> String {
    let all = tool("hostname", &["-I"]);
    all.split_whitespace().find(|word| word.contains('.')).unwrap_or("127.0.0.1").to_owned()
}

/// How a registry is to be run.
#[derive(Clone, Copy, Default)]
pub struct RegistryOptions {
    /// With TLS and a certificate authority of its own.
    pub tls: bool,
    /// User `alice`, password `secret`.
    pub auth: bool,
}

impl Registry {
    /// Starts it and waits until it answers.
    pub fn start(options: RegistryOptions) -> Self {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let port = TcpListener::bind("127.0.0.1:0")
            .expect("loopback works")
            .local_addr()
            .expect("it is bound")
            .port();
        // Certificates of loopback registries are not checked, as with Docker; so TLS gets a real address.
        let address = if options.tls { own_address() } else { "127.0.0.1".to_owned() };
        let host = format!("{address}:{port}");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n",
            path("data")
        );
        let mut ca = None;
        if options.tls {
            let certificate = Certificate::new("registry").make(dir.path());
            config.push_str(&format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                certificate.with_extension("key").display()
            ));
            let _ = tool("chmod", &["a+rx", &dir.path().display().to_string()]);
            ca = Some(certificate);
        }
        if options.auth {
            // bcrypt of "secret", cost 5: the only scheme that it reads, and no htpasswd needed here.
            fs::write(dir.path().join("htpasswd"), format!("alice:{BCRYPT_SECRET}\n"))
                .expect("it was just made");
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                path("htpasswd")
            ));
        }
        Registry::launch(dir, host, &config, ca)
    }

    /// Starts one with TLS on this machine's own address, with these files; with `client_ca` it lets in
    /// only who shows a certificate of that authority.
    pub fn with_tls(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let address = own_address();
        let port = TcpListener::bind((address.as_str(), 0))
            .expect("the address is ours")
            .local_addr()
            .expect("it is bound")
            .port();
        let host = format!("{address}:{port}");
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n  tls:\n    certificate: {}\n    key: {}\n",
            dir.path().join("data").display(),
            certificate.display(),
            key.display()
        );
        if let Some(authority) = client_ca {
            config.push_str(&format!("    clientcas:\n      - {}\n", authority.display()));
        }
        Registry::launch(dir, host, &config, Some(certificate.to_owned()))
    }

    fn launch(dir: tempfile::TempDir, host: String, config: &str, ca: Option<PathBuf>) -> Self {
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(dir.path().join("config.yml"), config).expect("it was just made");
        let log = fs::File::create(dir.path().join("log")).expect("it was just made");
        let child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .expect("docker-registry starts");
        let registry = Registry { child, host, ca, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            assert!(
                Instant::now() < deadline,
                "docker-registry does not listen: {}",
                registry.log()
            );
            std::thread::yield_now();
        }
        registry
    }

    /// Kills it, as a machine that goes away.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        self.dir.path()
    }
}

/// Podman or Buildah with a storage of its own.
pub struct Containers {
    program: &'static str,
    root: String,
    run: String,
}

impl Containers {
    /// Its storage is made in `dir`, which must exist.
    pub fn new(program: &'static str, dir: &Path) -> Self {
        let path = |name: &str| dir.join(name).display().to_string();
        Containers { program, root: path("root"), run: path("run") }
    }

    /// Runs a command, which must succeed; gives its stdout.
    pub fn run(&self, args: &[&str]) -> String {
        let storage = ["--root", &self.root, "--runroot", &self.run, "--storage-driver=vfs"];
        tool(self.program, &[&storage, args].concat())
    }
}

/// A certificate to be made by openssl.
pub struct Certificate<'a> {
    /// The name of the files, and a part of its subject.
    pub name: &'a str,
    /// Whether it may issue others.
    pub authority: bool,
    /// The name of the one that issues it; itself without.
    pub issuer: Option<&'a str>,
    /// What the server is called, as openssl writes it; this machine's own address without.
    pub server: Option<&'a str>,
    /// The year in which it is valid; two days from now without.
    pub year: Option<u16>,
}

impl<'a> Certificate<'a> {
    /// One of its own authority for this machine's own address, which issues no others.
    pub fn new(name: &'a str) -> Self {
        Certificate { name, authority: false, issuer: None, server: None, year: None }
    }

    /// Makes `NAME.pem` and `NAME.key` in a directory; gives the path of the first.
    pub fn make(&self, dir: &Path) -> PathBuf {
        let path = |name: &str, end: &str| dir.join(format!("{name}.{end}")).display().to_string();
        let (out, key, request) =
            (path(self.name, "pem"), path(self.name, "key"), path(self.name, "csr"));
        let server = self.server.map_or_else(|| format!("IP:{}", own_address()), str::to_owned);
        let constraints = if self.authority { "TRUE" } else { "FALSE" };
        let extensions =
            format!("subjectAltName={server}\nbasicConstraints=critical,CA:{constraints}\n");
        // `openssl req` of Debian 12 gives no certificate for another time than from now on; `ca` does.
        let settings = format!(
            "[ca]\ndefault_ca=own\n[own]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\n\
             default_md=sha256\npolicy=any\nx509_extensions=extensions\nunique_subject=no\n\
             [any]\ncommonName=supplied\n[extensions]\n{extensions}",
            path(self.name, "index"),
            dir.display()
        );
        fs::write(path(self.name, "cnf"), settings).expect("the directory is writable");
        fs::write(path(self.name, "index"), "").expect("the directory is writable");
        let subject = format!("/CN=lapstrake {}", self.name);
        tool(
            "openssl",
            &[
                "req",
                "-new",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-subj",
                &subject,
                "-keyout",
                &key,
                "-out",
                &request,
            ],
        );
        let (settings, year) = (path(self.name, "cnf"), self.year.unwrap_or_default());
        let (start, end) = (format!("{year:04}0101000000Z"), format!("{year:04}1231000000Z"));
        let mut args = vec!["ca", "-batch", "-notext", "-config", &settings, "-in", &request];
        args.extend(["-out", &out]);
        match self.year {
            Some(_) => args.extend(["-startdate", &start, "-enddate", &end]),
            None => args.extend(["-days", "2"]),
        }
        let of_issuer = self.issuer.map(|issuer| (path(issuer, "pem"), path(issuer, "key")));
        match &of_issuer {
            Some((certificate, key)) => args.extend(["-cert", certificate, "-keyfile", key]),
            None => args.extend(["-selfsign", "-keyfile", &key]),
        }
        tool("openssl", &args);
        let _ = tool("chmod", &["a+r", &out, &key]);
        PathBuf::from(out)
    }
}

/// Makes `NAME.pem` and `NAME.key` in a directory: a certificate of its own authority for this
/// machine's own address, or one of `issuer` (another name). With `authority` it may issue others.
pub fn certificate(dir: &Path, name: &str, authority: bool, issuer: Option<&str>) -> PathBuf {
    Certificate { authority, issuer, ..Certificate::new(name) }.make(dir)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// bcrypt of `secret`.
const BCRYPT_SECRET: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
