//! What a command takes from the world around it: variables, home, current directory, clock,
//! terminal. Read here and nowhere else, and handed down.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::registry::{Client, CredentialSource};
use crate::sandbox::{self, Arch, Cancel, Emulator, Isolation};
use crate::store::Store;

use super::args::RegistryArgs;
use super::registries;
use super::report::{Exit, Report, Result};

/// The world around a command.
pub struct Environment {
    /// The current directory.
    pub cwd: PathBuf,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// Colours on standard error.
    pub colour: bool,
    /// Set when the user stops the program.
    pub cancel: Cancel,
    pushes: std::sync::atomic::AtomicUsize,
}

impl Environment {
    /// Looks around.
    pub fn new(root: Option<PathBuf>) -> Result<Environment> {
        let cwd = std::env::current_dir()
            .map_err(|error| Report::of(Exit::Usage, "the current directory is gone", &error))?;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = std::io::stderr().is_terminal() && !no_color && !dumb;
        let cancel = Cancel::new()
            .map_err(|error| Report::of(Exit::Host, "cannot make an event descriptor", &error))?;
        Ok(Environment { cwd, root, colour, cancel, pushes: Default::default() })
    }

    /// Counts pushes, so that each is a step of its own.
    pub fn pushes(&self) -> usize {
        self.pushes.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Gives a variable that is UTF-8.
    pub fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn path_variable(&self, name: &str) -> Option<PathBuf> {
        std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Gives the seconds since 1970.
    pub fn now(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
    }

    /// Gives the id of the user who runs this.
    pub fn user(&self) -> u32 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("/proc/self").map_or(0, |about| about.uid())
    }

    /// Prints data on standard output.
    pub fn print(&self, text: &str) {
        // A reader that went away (`| head`) is no error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        let _ = std::io::stdout().flush();
    }

    /// Prints a message on standard error.
    pub fn say(&self, text: &str) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Gives standard output to write data to.
    pub fn stdout(&self) -> Box<dyn Write + Send> {
        Box::new(std::io::stdout())
    }

    /// Gives standard output when `dest` is `-`.
    pub fn stdout_of(&self, dest: &Path) -> Option<Box<dyn Write + Send>> {
        (dest.as_os_str() == "-").then(|| self.stdout())
    }

    /// Gives the directory of the store.
    pub fn store_root(&self) -> Result<PathBuf> {
        if let Some(root) = &self.root {
            return Ok(self.cwd.join(root));
        }
        if let Some(data) = self.path_variable("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
            return Ok(data.join("lapstrake"));
        }
        let home = self.home().ok_or_else(|| {
            Report::usage("there is no home directory for the store")
                .with_hint("set HOME, or name a directory: --root DIR")
        })?;
        Ok(home.join(".local/share/lapstrake"))
    }

    fn home(&self) -> Option<PathBuf> {
        self.path_variable("HOME").filter(|home| home.is_absolute())
    }

    /// Opens the store, which is made when it does not exist.
    pub fn open_store(&self) -> Result<Store> {
        let root = self.store_root()?;
        Store::open(&root).map_err(|error| {
            Report::of(Exit::Damaged, &format!("cannot open the store {}", root.display()), &error)
                .with_hint("check who owns it, or use another directory: --root DIR")
        })
    }

    /// Gives the proxy variables, for programs that are started.
    pub fn proxy_variables(&self) -> Vec<(String, String)> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| crate::graph::args::is_proxy(name))
            .collect()
    }

    /// Gives the list of ssh host keys that the user trusts.
    pub fn known_hosts(&self) -> Option<PathBuf> {
        self.home().map(|home| home.join(".ssh/known_hosts"))
    }

    /// Reads the certificates of `--tls-ca`, as PEM.
    pub fn certificates(&self, args: &RegistryArgs) -> Result<Vec<Vec<u8>>> {
        let read = |path: &PathBuf| {
            std::fs::read(self.cwd.join(path)).map_err(|error| {
                let what = format!("--tls-ca: cannot read {}", path.display());
                Report::of(Exit::Usage, &what, &error)
            })
        };
        args.tls_ca.iter().map(read).collect()
    }

    /// Makes the client for registries.
    pub fn registry_client(&self, args: &RegistryArgs, offline: bool) -> Result<Arc<Client>> {
        let retries = crate::registry::Options::default().retries;
        self.registry_client_with(args, offline, retries)
    }

    /// Makes the client for questions that are not worth a long wait, with fewer retries.
    pub fn registry_client_with(
        &self,
        args: &RegistryArgs,
        offline: bool,
        retries: u32,
    ) -> Result<Arc<Client>> {
        let mut sources = Vec::new();
        if let Some(json) = self.variable("DOCKER_AUTH_CONFIG") {
            let name = "DOCKER_AUTH_CONFIG".to_owned();
            sources.push(CredentialSource::Inline { name, json: json.into_bytes() });
        }
        sources.extend(self.credential_files().into_iter().map(CredentialSource::File));
        let tls_ca = self.certificates(args)?;
        let mut options = crate::registry::Options {
            insecure: args.insecure_registry.clone(),
            tls_ca,
            cert_dirs: registries::certificate_dirs(self),
            cert_dir: args.cert_dir.as_ref().map(|dir| self.cwd.join(dir)),
            registries: registries::read(self, args)?,
            credentials: sources,
            offline,
            retries,
            ..crate::registry::Options::default()
        };
        if let Some(text) = self.variable(super::network::VARIABLE) {
            super::network::apply(&text, &mut options)?;
        }
        Client::new(options)
            .map(Arc::new)
            .map_err(|error| Report::of(Exit::Usage, "cannot set up the registry client", &error))
    }

    /// Gives the directory of the user's configuration.
    pub fn config_dir(&self) -> Option<PathBuf> {
        let named = self.path_variable("XDG_CONFIG_HOME");
        named.or_else(|| self.home().map(|home| home.join(".config")))
    }

    /// Gives the directory of what programs keep for this user.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let named = self.path_variable("XDG_CACHE_HOME");
        named.or_else(|| self.home().map(|home| home.join(".cache")))
    }

    /// Gives the files that may hold names and passwords, in the order in which they are asked.
    pub fn credential_files(&self) -> Vec<PathBuf> {
        let podman = [self.path_variable("XDG_RUNTIME_DIR"), self.config_dir()];
        let podman = podman.into_iter().flatten().map(|dir| dir.join("containers/auth.json"));
        let own = self.path_variable("REGISTRY_AUTH_FILE").into_iter();
        own.chain(podman).chain(self.docker_config()).collect()
    }

    /// Gives Docker's config.json.
    pub fn docker_config(&self) -> Option<PathBuf> {
        let dir = self.path_variable("DOCKER_CONFIG");
        let dir = dir.or_else(|| self.home().map(|home| home.join(".docker")))?;
        Some(dir.join("config.json"))
    }

    /// Says what the sandbox needs to know of this user.
    pub fn sandbox_options(&self, isolation: Isolation) -> sandbox::Options {
        sandbox::Options {
            isolation,
            user_name: self.variable("USER").or_else(|| self.variable("LOGNAME")),
            path: self.search_path(),
            exe: None,
        }
    }

    /// Gives the directories of PATH, and those where system programs lie.
    pub fn search_path(&self) -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        // Cron jobs and minimal shells leave these out, and newuidmap lies there.
        for dir in ["/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
            let dir = PathBuf::from(dir);
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    /// Says where container engines may be.
    pub fn engines(&self) -> crate::transport::engine::Places {
        let program = |name: &str| {
            self.search_path().into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
        };
        let runtime = self.path_variable("XDG_RUNTIME_DIR");
        let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
        sockets.extend(runtime.map(|dir| dir.join("docker.sock")));
        sockets.extend(self.home().map(|home| home.join(".docker/run/docker.sock")));
        crate::transport::engine::Places {
            docker_host: self.variable("DOCKER_HOST").filter(|host| !host.is_empty()),
            sockets,
            docker: program("docker"),
            podman: program("podman"),
        }
    }

    /// Finds QEMU for each foreign architecture in PATH.
    pub fn find_emulators(&self) -> BTreeMap<Arch, PathBuf> {
        let dirs = self.search_path();
        const ALL: [Arch; 9] = [
            Arch::Amd64,
            Arch::I386,
            Arch::Arm64,
            Arch::Arm,
            Arch::Riscv64,
            Arch::Ppc64le,
            Arch::S390x,
            Arch::Mips64le,
            Arch::Loong64,
        ];
        ALL.into_iter()
            .filter(|arch| !arch.is_native())
            .filter_map(|arch| Some((arch, Emulator::find(arch, &dirs)?.path)))
            .collect()
    }

    /// Gives the resolv.conf for steps: the host's, or systemd-resolved's real one when the host's
    /// names a stub that only it can reach.
    pub fn resolv_conf(&self) -> Vec<u8> {
        let host = std::fs::read("/etc/resolv.conf").unwrap_or_default();
        match std::fs::read("/run/systemd/resolve/resolv.conf") {
            Ok(real) if names_stub(&host) => real,
            _ => host,
        }
    }
}

/// Says whether a resolv.conf names systemd-resolved's stub. RUN shares the host's network, where the
/// stub answers too; the real file also names search domains that the stub's may lack.
fn names_stub(resolv_conf: &[u8]) -> bool {
    String::from_utf8_lossy(resolv_conf)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .any(|address| address.trim() == "127.0.0.53")
}

/// How many threads there should be. Asked once: it takes the standard library a dozen system calls.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Gives a finished temporary file its name, with the mode that a new file would have.
pub fn publish(file: tempfile::NamedTempFile, dest: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(dest).map(drop).map_err(|error| error.error)
}

/// Writes a small file whole or not at all.
pub fn write_file(dest: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    publish(file, dest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_of_systemd_resolved_is_known() {
        assert!(names_stub(b"# stub\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(names_stub(b"nameserver 1.1.1.1\n  nameserver\t127.0.0.53 \n"));
        assert!(!names_stub(b"#nameserver 127.0.0.53\nnameserver 127.0.0.1\n"));
    }
}
