//! `lapstrake plan`: what a build would do, without doing it.

use serde_json::Value;

use crate::support::{TestEnv, cache, foreign_platform};

const TEXT: &str = "FROM base AS build\nWORKDIR /src\nCOPY a .\nRUN cat a > b\nFROM base\nCOPY --from=build /src/b /b\nRUN cat /b\n";

fn plan(env: &TestEnv, args: &[&str]) -> crate::support::Run {
    let base = format!("base=oci-layout://{}:latest", cache().join("busybox").display());
    env.lapstrake(["plan", "--build-context", &base]).args(args).args([env.context()])
}

fn json(env: &TestEnv, args: &[&str]) -> Value {
    let output = plan(env, &["--format", "json"]).args(args).ok();
    serde_json::from_str(&output.stdout).expect("JSON")
}

fn states(plan: &Value) -> Vec<String> {
    let steps = plan["steps"].as_array().expect("steps");
    let made = steps
        .iter()
        .filter(|step| !["image", "context"].contains(&step["kind"].as_str().unwrap_or_default()));
    made.map(|step| {
        format!(
            "{} {}",
            step["kind"].as_str().unwrap_or_default(),
            step["state"].as_str().unwrap_or_default()
        )
    })
    .collect()
}

story!(plan_tells_what_would_run_and_runs_nothing : root user single, |env| {
    env.write("a", "1");
    env.dockerfile(TEXT);
    let before = json(env, &[]);
    assert_eq!(states(&before), ["workdir run", "copy open", "run open", "copy open", "run open"]);
    plan(env, &[]).ok().says_not("isolation").says_not("RUN");
    env.build_command(["-t", "x"]).ok();
    let after = json(env, &[]);
    assert_eq!(states(&after), ["workdir unneeded", "copy unneeded", "run unneeded", "copy cached", "run cached"]);
    assert!(after["steps"].as_array().is_some_and(|steps| steps.iter().all(|step| step["key"].is_string() || step["kind"] == "context")), "{after:#}");
    assert_eq!(after["outputs"][0]["step"], after["steps"].as_array().expect("steps").len() - 1);
    // One file changed: what depends on its contents is open, what does not is known.
    env.write("a", "2");
    let changed = json(env, &[]);
    assert_eq!(states(&changed), ["workdir cached", "copy run", "run open", "copy open", "run open"]);
    assert_eq!(states(&json(env, &["--no-cache"]))[0], "workdir run");
});

story!(plan_is_drawn_as_tree_mermaid_and_dot : user, |env| {
    env.write("a", "1");
    env.dockerfile(TEXT);
    let (platform, _) = foreign_platform();
    let tree = plan(env, &["--platform", platform]).ok().stdout;
    for text in ["base images\n", "sources\n", &format!("{platform} build\n"), "RUN cat a > b (emulated)", "COPY --from=build /src/b /b", &format!("image for {platform} ← "), "0 cached, "] {
        assert!(tree.contains(text), "{text} is not in:\n{tree}");
    }
    let mermaid = plan(env, &["--format", "mermaid"]).ok().stdout;
    assert!(mermaid.starts_with("flowchart TD\n") && mermaid.contains("RUN cat a &gt; b<br>open") && mermaid.contains(" -.-> "), "{mermaid}");
    let dot = plan(env, &["--format", "dot"]).ok().stdout;
    assert!(dot.starts_with("digraph plan {") && dot.ends_with("}\n") && dot.contains("[style=dashed]"), "{dot}");
    if crate::support::which("dot").is_some() {
        env.command("dot").args(["-Tsvg"]).input(dot).ok();
    }
    plan(env, &["--format", "xml"]).fails(2).says("mermaid");
});
