//! The codes of planning's errors, with what each means; those of the parser are at
//! [`crate::dockerfile::diagnostic::CODES`].

/// Every code that this module gives, with what it means.
pub const CODES: [(&str, &str); 28] = [
    ("E0601", "The file holds no stage. Begin one with FROM."),
    ("E0602", "--target names a stage that there is not."),
    (
        "E0603",
        "A stage copies from itself or from one that stands below it; only earlier stages can be copied from.",
    ),
    ("E0604", "--platform of FROM is no platform: it takes os/arch[/variant], as linux/arm64."),
    (
        "E0605",
        "The base image has an ONBUILD trigger that is no instruction. The image has to be mended.",
    ),
    (
        "E0606",
        "A name in FROM or a platform is empty once its variables are replaced. Give the ARG a default.",
    ),
    (
        "E0607",
        "A base image or context can't be had. What stands behind the name says why: not found, not allowed, no network, or no image for this platform.",
    ),
    ("E0610", "STOPSIGNAL is the name or number of a signal, as SIGTERM or 15."),
    ("E0611", "RUN needs a Linux root file system; this stage is for another operating system."),
    (
        "E0612",
        "Nothing can be mounted over the root of the file system. Mount below it, as target=/src.",
    ),
    ("E0613", "--chown has variables, and with their values it is empty."),
    ("E0614", "--chmod takes an octal number or a symbolic mode, as 755 or u=rwX,go=rX."),
    ("E0615", "Several sources need a directory as destination; its name ends with a slash."),
    ("E0616", "A COPY reads from an empty file system (scratch), so there is nothing to copy."),
    ("E0617", "A name in ENV or LABEL is empty once its variables are replaced."),
    ("E0618", "EXPOSE takes ports, as 80, 53/udp or 8000-8010."),
    ("E0619", "VOLUME is empty once its variables are replaced."),
    ("E0620", "A secret or cache mount needs an id or a target."),
    (
        "E0621",
        "COPY takes files of the context, a stage or an image. ADD takes URLs and repositories.",
    ),
    (
        "E0622",
        "--checksum does not fit: it takes a digest of one URL, or a commit of a repository.",
    ),
    (
        "E0623",
        "The source of an ADD is no repository that can be fetched, or its flags contradict each other.",
    ),
    ("E0624", "A stage defines more variables than a program can be given."),
    (
        "E0625",
        "Variables made of each other, and stages that hand them down, make more configuration and history than a build may have: 24 MiB.",
    ),
    ("E0631", "The step asks for what a build has to be allowed: add --allow as the message says."),
    (
        "E0632",
        "--device takes names of devices as the Container Device Interface has them: vendor.com/class=name.",
    ),
    ("W0601", "A --build-arg is given that no ARG declares. Check its name."),
    ("W0602", "A --build-arg is a setting of BuildKit that changes nothing here."),
    ("E1001", "The step failed. Its last lines of output stand above the message."),
];
