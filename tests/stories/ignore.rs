//! .dockerignore: which file is read, order, negation. The matcher has its own tables in `context`.

// BuildKit testDockerignore.
story!(order_and_negation : root user, |env| {
    for name in ["foo", "bar", "baz", "bay", "sub/keep", "sub/drop"] {
        env.write(name, "x");
    }
    env.write(".dockerignore", "# comment\nba*\n!bay\nsub\n!sub/keep\nDockerfile\n.dockerignore\n");
    let image = env.image("FROM scratch\nCOPY . /d/\n");
    // The parent of what was taken back in appears too, with its own mode.
    assert_eq!(image.below("d"), ["bay", "foo", "sub", "sub/keep"]);
    assert_eq!(image.file("d/sub").line(), "d0755 0:0 d/sub");
});

// BuildKit testDockerignoreOverride.
story!(file_beside_the_dockerfile_wins : root user, |env| {
    env.write("foo", "x");
    env.write("bar", "x");
    env.write(".dockerignore", "foo\n");
    env.write("other.Dockerfile", "FROM scratch\nCOPY . /d/\n");
    env.write("other.Dockerfile.dockerignore", "bar\n*Dockerfile*\n.dockerignore\n");
    let file = env.context().join("other.Dockerfile");
    let image = env.build(["-f".as_ref(), file.as_os_str()]).only();
    assert_eq!(image.below("d"), ["foo"]);
});

story!(ignored_file_can_not_be_copied : root user, |env| {
    env.write("secret", "x");
    env.write(".dockerignore", "secret\n");
    let text = env.build_fails(1, "FROM scratch\nCOPY secret /\n");
    assert!(text.contains("secret") && text.contains("dockerignore"), "{text}");
});

story!(allow_list_of_everything_but : root user, |env| {
    env.write("src/a/b/c.rs", "x");
    env.write("src/a/d.txt", "x");
    env.write("other/x", "x");
    env.write(".dockerignore", "**\n!src/**/*.rs\n");
    let image = env.image("FROM scratch\nCOPY . /d/\n");
    assert_eq!(image.below("d"), ["src", "src/a", "src/a/b", "src/a/b/c.rs"]);
});
