//! Bake files of repositories, archives and URLs, and what they may touch on this machine.

use crate::support::TestEnv;
use crate::support::layout::{Image, Layout};
use crate::support::repository::{Repository, serve};
use crate::support::web::{Reply, Web};

/// `lapstrake bake` in a directory that holds no bake file.
fn bake(env: &TestEnv, args: &[&str]) -> crate::support::Run {
    env.lapstrake(["bake"]).args(args).dir(env.context())
}

/// What a target left in a layout that has its name.
fn made(env: &TestEnv, name: &str) -> Image {
    Layout::open(&env.context().join(name)).only()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

const REPOSITORY: &str = r#"
group "default" { targets = ["whole", "part", "here"] }
target "_all" { dockerfile-inline = "FROM scratch\nCOPY . /c/\nCOPY --from=lib . /lib/\n" }
target "whole" {
  inherits = ["_all"]
  contexts = { lib = "lib" }
  output = ["type=oci,dest=whole,tar=false"]
}
target "part" {
  context = "./part"
  contexts = { lib = "." }
  output = ["type=oci,dest=part,tar=false"]
}
target "here" {
  context = BAKE_CMD_CONTEXT
  dockerfile = "cwd://here.Dockerfile"
  contexts = { lib = "cwd://own" }
  output = ["type=oci,dest=here,tar=false"]
}
"#;

// buildx: TestBakeRemote, TestBakeRemoteContextSubdir, TestBakeRemoteCmdContext, TestBakeRemoteLocalOverride,
// TestBakeRemoteDockerfileCwd.
story!(bake_file_of_a_repository : root user single, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "app.git");
    repository
        .write("docker-bake.hcl", REPOSITORY)
        .write("other.hcl", "target \"default\" {\n  dockerfile = \"part/Dockerfile\"\n  contexts = { lib = \"docker-image://scratch\" }\n  output = [\"type=oci,dest=other,tar=false\"]\n}\n")
        .write("file", "one")
        .write("lib/l", "lib")
        .write("part/Dockerfile", "FROM scratch\nCOPY inner /\nCOPY --from=lib file /lib\n")
        .write("part/inner", "in")
        .commit();
    repository.git(&["tag", "v1"]);
    repository.write("file", "two").commit();
    let web = serve(env, None);
    let url = web.url("/app.git");
    env.write("here.Dockerfile", "FROM scratch\nCOPY mine /mine\nCOPY --from=lib o /o\n");
    env.write("mine", "mine");
    env.write("own/o", "own");
    bake(env, &[&url]).ok();
    let whole = made(env, "whole");
    assert_eq!((whole.text("c/file").as_str(), whole.text("lib/l").as_str()), ("two", "lib"));
    assert!(!whole.has("c/.git"));
    let part = made(env, "part");
    assert_eq!((part.text("inner").as_str(), part.text("lib").as_str()), ("in", "two"));
    let here = made(env, "here");
    assert_eq!((here.text("mine").as_str(), here.text("o").as_str()), ("mine", "own"));
    // A tag; and what is printed is what a build can be asked for.
    let tagged = format!("{url}#v1");
    let printed = json(&bake(env, &[&tagged, "--print"]).ok().stdout);
    let target = |name: &str| printed["target"][name].clone();
    assert_eq!(target("whole")["context"], tagged);
    assert_eq!(target("whole")["contexts"]["lib"], format!("{tagged}:lib"));
    assert_eq!(target("part")["context"], format!("{tagged}:part"));
    assert_eq!(target("here")["context"], "cwd://");
    let out = env.path("tagged");
    env.lapstrake(["build", "--build-context", &format!("lib={tagged}"), "-o", out.to_str().expect("plain"), &format!("{tagged}:part")]).ok();
    assert_eq!(Layout::open(&out).only().text("lib"), "one");
    // Another file of the repository, and one of this machine over it.
    env.write("mine.hcl", "target \"default\" { labels = { from = \"here\" } }\n");
    let args = [&tagged, "-f", "other.hcl", "-f", "cwd://mine.hcl"];
    bake(env, &args).fails(2).says("part/Dockerfile:3:").says("\"lib\" is empty");
    let lib = format!("default.contexts.lib={url}");
    let args = [&args[..], &["--set", "default.context=part", "--set", "default.dockerfile=Dockerfile", "--set", &lib]].concat();
    bake(env, &args).ok();
    let other = made(env, "other");
    assert_eq!(other.runtime("Labels")["from"], "here");
    assert_eq!(other.text("lib"), "two");
    // A second URL is the context that the command names.
    let printed = json(&bake(env, &[&url, &web.url("/lib.git"), "here", "--print"]).ok().stdout);
    assert_eq!(printed["target"]["here"]["context"], web.url("/lib.git"));
    let list = bake(env, &[&url, "--list=targets"]).ok();
    assert!(list.stdout.contains("whole"), "{}", list.stdout);
    // Mistakes.
    bake(env, &[&url, "-f", "none.hcl"]).fails(2).says("there is no file none.hcl").says("cwd://none.hcl");
    bake(env, &[&format!("{url}#v1:part")]).fails(2).says("there is no bake file in").says("docker-bake.hcl");
    bake(env, &[&url, "none"]).fails(2).says("there is no target or group \"none\"");
    bake(env, &[&format!("{url}#a b")]).fails(2).says("invalid git context");
    env.write("here.hcl", "target \"own\" {\n  context = BAKE_CMD_CONTEXT\n  dockerfile = \"x.Dockerfile\"\n}\n");
    bake(env, &[&url, "-f", "cwd://here.hcl", "own"]).fails(2).says("dockerfile = \"cwd://x.Dockerfile\"");
});

story!(bake_file_of_a_private_repository : user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "app.git");
    repository.write("docker-bake.hcl", "target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY file /\\n\"\n  output = [\"type=oci,dest=out,tar=false\"]\n}\n").write("file", "x").commit();
    // x-access-token:t0ken
    let web = serve(env, Some("Basic eC1hY2Nlc3MtdG9rZW46dDBrZW4="));
    let url = web.url("/app.git");
    bake(env, &[&url]).fails(4).says("BUILDX_BAKE_GIT_AUTH_TOKEN");
    bake(env, &[&url]).env("BUILDX_BAKE_GIT_AUTH_TOKEN", "t0ken").ok().says_not("t0ken");
    assert_eq!(made(env, "out").text("file"), "x");
});

// buildx: TestBakeRemote… for http; a directory of an archive is a context of its own.
story!(bake_file_of_an_archive_or_a_url : root user, |env| {
    let archive = crate::support::image::Tar::new()
        .file("docker-bake.json", r#"{"target": {
            "default": {"context": "app", "contexts": {"lib": "lib/in", "all": "."}, "output": ["type=oci,dest=default,tar=false"]},
            "link": {"context": "link", "output": ["type=oci,dest=link,tar=false"]}
        }}"#)
        .file("app/Dockerfile", "FROM scratch\nCOPY file /\nCOPY --from=lib l /\nCOPY --from=all app /app\n")
        .file("app/file", "app")
        .file("lib/in/l", "lib")
        .symlink("link", "/etc")
        .bytes();
    let text = "target \"default\" {\n  dockerfile-inline = \"FROM scratch\\nCOPY mine /\\n\"\n  output = [\"type=oci,dest=plain,tar=false\"]\n}\n";
    let web = Web::start(move |asked| match asked.path.as_str() {
        "/a.tar" => Reply::file(archive.clone()),
        "/docker-bake.hcl" => Reply::file(text),
        _ => Reply::status(404),
    });
    let url = web.url("/a.tar");
    bake(env, &[&url]).ok();
    let image = made(env, "default");
    assert_eq!((image.text("file").as_str(), image.text("l").as_str()), ("app", "lib"));
    assert_eq!(image.below("app"), ["Dockerfile", "file"]);
    let printed = json(&bake(env, &[&url, "--print"]).ok().stdout);
    assert_eq!(printed["target"]["default"]["context"], format!("{url}#:app"));
    // The same name is a context of build.
    let named = format!("lib={url}#:lib/in");
    let all = format!("all={url}");
    let out = env.path("out");
    env.lapstrake(["build", "--build-context", &named, "--build-context", &all, "-o", out.to_str().expect("plain"), &format!("{url}#:app")]).ok();
    assert_eq!(Layout::open(&out).digest(), Layout::open(&env.context().join("default")).digest());
    bake(env, &[&url, "link"]).fails(2).says("\"link\" is no directory of").says("symbolic links are not followed");
    env.lapstrake(["build", "-t", "x", &format!("{}#:app", web.url("/docker-bake.hcl"))]).fails(2).says("it has no directory app");
    // A bake file alone: what is relative in it can only be here.
    env.write("mine", "mine");
    bake(env, &[&web.url("/docker-bake.hcl")]).ok();
    assert_eq!(made(env, "plain").text("mine"), "mine");
    bake(env, &[&web.url("/docker-bake.hcl"), "-f", "x.hcl"]).fails(2).says("it holds no x.hcl");
    bake(env, &[&format!("{}#:app", web.url("/docker-bake.hcl"))]).fails(2).says("it has no directory app");
    bake(env, &[&web.url("/none")]).fails(4).says("404");
});

// Compose files of a repository name others of it, and nothing of this machine.
story!(compose_files_of_a_repository_include_others : user, |env| {
    need_tool!("git");
    let repository = Repository::new(env, "app.git");
    repository
        .write("compose.yaml", "include: [sub/compose.yaml]\nservices:\n  app: { extends: { service: base, file: base.yaml }, build: { x-bake: { output: 'type=oci,dest=app,tar=false' } } }\n")
        .write("base.yaml", "services: { base: { build: { context: ctx } } }\n")
        .write("ctx/Dockerfile", "FROM scratch\nCOPY . /\n")
        .write("sub/compose.yaml", "services: { lib: { build: { context: ., x-bake: { output: 'type=oci,dest=lib,tar=false' } } } }\n")
        .write("sub/Dockerfile", "FROM scratch\nCOPY compose.yaml /\n")
        .commit();
    repository.git(&["tag", "good"]);
    repository.write("compose.yaml", "include: [/../../etc/passwd]\n").commit();
    let web = serve(env, None);
    bake(env, &[&format!("{}#good", web.url("/app.git"))]).ok();
    assert!(made(env, "app").has("Dockerfile"));
    assert!(made(env, "lib").has("compose.yaml"));
    bake(env, &[&web.url("/app.git")]).fails(2).says("cannot read /../../etc/passwd: there is no such file");
    let web = Web::with_file("include: [other.yaml]\n");
    bake(env, &[&web.url("/compose.yaml")]).fails(2).says("the bake file stands alone");
});

// Attack: a bake file that is not the user's reads secrets of the machine, or writes beside the build.
story!(foreign_bake_files_stay_in_the_directory : root user, |env| {
    let text = r#"
target "default" { dockerfile-inline = "FROM scratch\nCOPY . /\n" }
target "secret" {
  inherits = ["default"]
  secret = ["id=s,src=../elsewhere/key"]
}
target "context" {
  inherits = ["default"]
  context = "../elsewhere"
}
target "link" {
  inherits = ["default"]
  contexts = { a = "link" }
}
target "dockerfile" { dockerfile = "cwd://../elsewhere/key" }
target "named" {
  inherits = ["default"]
  contexts = { a = "oci-layout://../elsewhere/layout:latest" }
}
target "out" {
  inherits = ["default"]
  output = ["type=local,dest=new/../../elsewhere/files"]
}
target "cache" {
  inherits = ["default"]
  cache-from = ["type=local,src=../elsewhere/cache"]
  cache-to = ["type=local,dest=../elsewhere/cache"]
}
target "agent" {
  inherits = ["default"]
  ssh = ["default"]
}
target "own" {
  inherits = ["default"]
  context = "github.com/../../elsewhere"
}
group "nested" { targets = ["fine", "inner"] }
target "inner" {
  inherits = ["default"]
  output = ["type=local,dest=files/link/inner"]
}
target "fine" {
  inherits = ["default"]
  context = "sub"
  secret = ["id=s,src=sub/key"]
  output = ["type=local,dest=files"]
}
"#;
    let web = Web::with_file(text);
    let url = web.url("/docker-bake.hcl");
    env.write_at("elsewhere/key", "hush-hush-hush");
    env.write("sub/key", "k");
    env.write("github.com/x", "");
    env.link(env.path("elsewhere").to_str().expect("plain"), env.context().join("link"));
    let elsewhere = env.path("elsewhere").canonicalize().expect("it is there").display().to_string();
    for (target, want, flag) in [
        ("secret", "read", format!("fs.read={elsewhere}/key")),
        ("context", "read", format!("fs.read={elsewhere}")),
        ("link", "read", format!("fs.read={elsewhere}")),
        ("own", "read", format!("fs.read={elsewhere}")),
        ("dockerfile", "read", format!("fs.read={elsewhere}/key")),
        ("named", "read", format!("fs.read={elsewhere}/layout")),
        ("out", "write", format!("fs.write={elsewhere}/files")),
        ("cache", "write", format!("fs.read={elsewhere}/cache --allow fs.write={elsewhere}/cache")),
        ("agent", "forward the ssh agent", "ssh".to_owned()),
    ] {
        let output = bake(env, &[&url, target]).env("SSH_AUTH_SOCK", "/nowhere").fails(2);
        output.says(&format!("target {target}:")).says(want).says(&format!("--allow {flag}\n")).says_not("hush-hush-hush");
    }
    assert_eq!(std::fs::read_dir(env.path("elsewhere")).expect("there").count(), 1);
    bake(env, &[&url, "nested"]).fails(2).says("files/link/inner lies within another one");
    bake(env, &[&url, "fine"]).ok();
    assert!(env.context().join("files/key").is_file());
    // Granted, each by its own name.
    bake(env, &[&url, "secret", "--allow", "fs.read=../elsewhere/key"]).ok();
    bake(env, &[&url, "context", "--allow", "fs=../elsewhere"]).ok();
    bake(env, &[&url, "out", "--allow", "fs.write=*"]).ok();
    assert!(env.path("elsewhere/files").is_dir());
    bake(env, &[&url, "out", "--allow", "fs.read=*"]).fails(2);
    bake(env, &[&url, "out", "--allow", "fs.writ=*"]).fails(2).says("--allow fs.writ=*: there is no such entitlement").says("fs.write=PATH");
    // A file of this machine may do what its user may.
    env.write("docker-bake.hcl", text);
    bake(env, &["secret"]).ok();
});

// Both were refused once: neither needs a file, and the target below may stay unbuilt.
story!(checks_know_inline_files_and_linked_targets : user, |env| {
    env.write("docker-bake.hcl", r#"
group "default" { targets = ["inline", "linked"] }
target "inline" { dockerfile-inline = "from scratch\nLABEL a=b\nENTRYPOINT x\n" }
target "linked" {
  dockerfile-inline = "FROM below\nARG WHICH=1\nMAINTAINER me\n"
  contexts = { below = "target:inline" }
}
"#);
    let mut output = bake(env, &["--check"]).output();
    assert_ne!(output.code, Some(0));
    output.stderr.push_str(&output.stdout);
    output.says("JSONArgsRecommended").says("dockerfile-inline of inline:3").says("MaintainerDeprecated").says("dockerfile-inline of linked:3").says("the target \"inline\" makes it");
    let outline = bake(env, &["--call=outline", "linked"]).ok();
    assert!(outline.stdout.contains("WHICH"), "{}", outline.stdout);
});
