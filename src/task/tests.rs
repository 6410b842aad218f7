//! Tables of tasks: what they become, and what is refused.

use super::*;

fn run() -> BTreeMap<String, String> {
    [("ID", "ca1"), ("Registry", "r.example"), ("Date", "20240101-000000z")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn read(text: &str) -> Result<Task, Error> {
    parse(text, &run(), &BTreeSet::from(["given".to_owned()]))
}

fn steps(text: &str) -> Task {
    read(&format!("version: v1.1.0\nsteps:\n{text}")).expect(text)
}

#[test]
fn a_whole_task_is_read() {
    let task = read(
        "version: v1.1.0\nstepTimeout: 60\nworkingDirectory: /workspace/src\nenv: [A=1]\nalias:\n  values:\n    repo: team/app\n    sh: busybox\n\
         steps:\n  - id: amd\n    build: -t $Registry/$repo:$ID -f 'my file' .\n  - push: [\"$Registry/$repo:$ID\"]\n    timeout: 5\n\
         \x20 - cmd: sh -c 'echo $HOME $Nothing'\n    env: [B=2]\n    when: [amd]\n    retries: 3\n    retryDelay: 2\n    ignoreErrors: true\n",
    )
    .expect("it is a task");
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        task.steps[0].work,
        Work::Build(texts(&["-t", "r.example/team/app:ca1", "-f", "my file", "."]))
    );
    assert_eq!(task.steps[1].work, Work::Push(texts(&["r.example/team/app:ca1"])));
    assert_eq!(task.steps[2].work, Work::Run(texts(&["busybox", "-c", "echo $HOME $Nothing"])));
    assert_eq!((task.steps[0].timeout, task.steps[1].timeout), (60, 5));
    assert_eq!(task.steps[1].id, "acb_step_1");
    assert_eq!(task.steps[2].env, texts(&["A=1", "B=2"]));
    assert_eq!((task.steps[2].retries, task.steps[2].retry_delay), (3, 2));
    assert_eq!(task.steps[2].working_directory.as_deref(), Some("/workspace/src"));
}

#[test]
fn when_says_what_runs_at_the_same_time() {
    for (text, want) in [
        ("- cmd: a\n- cmd: b\n- cmd: c\n", vec![vec![], vec![0], vec![1]]),
        ("- cmd: a\n- cmd: b\n  when: ['-']\n- cmd: c\n", vec![vec![], vec![], vec![1]]),
        (
            "- {id: a, cmd: a}\n- {id: b, cmd: b, when: ['-']}\n- {cmd: c, when: [a, b]}\n",
            vec![vec![], vec![], vec![0, 1]],
        ),
        ("- {id: a, cmd: a, when: [b]}\n- {id: b, cmd: b, when: ['-']}\n", vec![vec![1], vec![]]),
    ] {
        let task = steps(text);
        let after: Vec<Vec<usize>> = task.steps.iter().map(|step| step.after.clone()).collect();
        assert_eq!(after, want, "{text}");
    }
    let task =
        steps("- {id: a, cmd: a}\n- {id: b, cmd: b, when: ['-']}\n- {cmd: c, when: [a, b]}\n");
    assert_eq!(ready(&task, &[false; 3], &[false; 3]), [0, 1]);
    assert_eq!(ready(&task, &[true, true, false], &[true, false, false]), [] as [usize; 0]);
    assert_eq!(ready(&task, &[true, true, false], &[true, true, false]), [2]);
}

#[test]
fn aliases_are_those_of_acr() {
    let first = |text: &str| match &steps(text).steps[0].work {
        Work::Run(words) => words[0].clone(),
        other => panic!("{other:?}"),
    };
    assert!(first("- cmd: bash echo hi\n").starts_with("mcr.microsoft.com/acr/bash:"));
    assert_eq!(first("- cmd: bashful\n"), "bashful");
    let old = read("steps:\n- cmd: bash $ID\n").expect("v1.0.0");
    assert_eq!(old.steps[0].work, Work::Run(vec!["bash".to_owned(), "$ID".to_owned()]));
}

#[test]
fn secret_volumes_hold_files() {
    let task = read(
        "version: v1.1.0\nsecrets: [{id: given, keyvault: 'https://x'}]\nvolumes:\n- name: v\n  secret: {token: aHVudGVyMg==}\n\
         steps:\n- cmd: a\n  volumeMounts: [{name: v, mountPath: /run/x}]\n",
    )
    .expect("it is a task");
    assert_eq!(task.volumes["v"]["token"], b"hunter2");
    assert_eq!(task.steps[0].mounts, [("v".to_owned(), "/run/x".to_owned())]);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_place() {
    for (text, message) in [
        ("version: v2.0.0\nsteps: [{cmd: a}]", "version v2.0.0 is not known"),
        ("version: v1.1.0\nsteps: []", "no steps"),
        ("version: v1.1.0\nsteps: [{cmd: a, build: b}]", "step acb_step_0: a step has one of"),
        ("version: v1.1.0\nsteps: [{cmd: a, colour: b}]", "unknown field `colour`"),
        ("version: v1.1.0\nsteps: [{id: x, cmd: a, detach: true}]", "step x: detach"),
        ("version: v1.1.0\nsteps: [{cmd: a, ports: ['80:80']}]", "ports"),
        ("version: v1.1.0\nsteps: [{cmd: a, keep: true}]", "keep"),
        ("version: v1.1.0\nsteps: [{cmd: a, privileged: true}]", "privileged"),
        ("version: v1.1.0\nsteps: [{cmd: a, network: mine}]", "network"),
        ("version: v1.1.0\nnetworks: [{name: a}]\nsteps: [{cmd: a}]", "networks: "),
        ("version: v1.1.0\nsteps: [{cmd: a, when: [b]}]", "no other step \"b\""),
        ("version: v1.1.0\nsteps: [{cmd: a, when: ['-', b]}]", "stands alone"),
        (
            "version: v1.1.0\nsteps: [{id: a, cmd: a, when: [b]}, {id: b, cmd: b, when: [a]}]",
            "wait for each other: a, b",
        ),
        ("version: v1.1.0\nsteps: [{id: a, cmd: a}, {id: a, cmd: b}]", "two steps"),
        ("version: v1.1.0\nsteps: [{cmd: docker ps}]", "no daemon"),
        ("version: v1.1.0\nsteps: [{cmd: --rm alpine}]", "option --rm"),
        ("version: v1.1.0\nsteps: [{cmd: \"a 'b\"}]", "has no end"),
        ("version: v1.1.0\nsteps: [{cmd: a, env: [b]}]", "is not NAME=VALUE"),
        ("version: v1.1.0\nsecrets: [{id: s, keyvault: u}]\nsteps: [{cmd: a}]", "Key Vault"),
        ("version: v1.1.0\nvolumes: [{name: v, secret: {a: '%'}}]\nsteps: [{cmd: a}]", "no base64"),
        (
            "version: v1.1.0\nsteps: [{cmd: a, volumeMounts: [{name: v, mountPath: /a}]}]",
            "no volume",
        ),
        ("version: v1.1.0\nsteps: [{cmd: a $Commit}]", "$Commit has no value"),
        ("version: v1.1.0\nalias: {src: [a.yaml]}\nsteps: [{cmd: a}]", "src:"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}
