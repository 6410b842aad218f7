//! Tables over whole files: what comes out of what is written.

use super::*;

pub(super) fn environment(name: &str) -> Option<String> {
    let known = [
        ("VERSION", "9"),
        ("DEBUG", "true"),
        ("LIST", "a,\"b,c\""),
        ("MAP", "k:v,l:w"),
        ("OBJECT_JSON", r#"{"a": "1", "b": 2}"#),
        ("COUNT", "many"),
    ];
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

pub(super) fn load(files: &[(&str, &str)]) -> Result<Config> {
    load_beside(files, &|name| Err(format!("there is no {name} here")))
}

/// Loads files that may name others.
pub(super) fn load_beside(
    files: &[(&str, &str)],
    file: &(dyn Fn(&str) -> std::result::Result<String, String> + Sync),
) -> Result<Config> {
    let files: Vec<File> = files
        .iter()
        .map(|(name, text)| File { name: (*name).to_owned(), text: (*text).to_owned() })
        .collect();
    let given = Given {
        variables: BTreeMap::from([("GIVEN".to_owned(), "var".to_owned())]),
        builtins: BTreeMap::from([("BAKE_LOCAL_PLATFORM".to_owned(), "linux/amd64".to_owned())]),
        dotenv: BTreeMap::from([("DOT".to_owned(), "env".to_owned())]),
    };
    let world = World {
        variable: &environment,
        now: 1_700_000_000,
        home: Some("/home/u".to_owned()),
        random: &|| [7; 16],
        file,
    };
    read(&files, &given, &world)
}

pub(super) fn choose(files: &[(&str, &str)], asked: &[&str], sets: &[&str]) -> Result<Chosen> {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    load(files)?.choose(&texts(asked), &texts(sets), &environment)
}

pub(super) fn json(target: &Target) -> String {
    target.to_json().to_string()
}

/// The attributes of the target `t`, as JSON without context and Dockerfile.
fn target(text: &str) -> String {
    let chosen = choose(&[("f.hcl", text)], &["t"], &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
    let mut json = chosen.targets["t"].to_json();
    let members = json.as_object_mut().expect("a target is an object");
    members.remove("context");
    members.remove("dockerfile");
    json.to_string()
}

fn error(text: &str) -> String {
    let found = choose(&[("f.hcl", text)], &["t"], &[]).expect_err(text);
    let help = found.diagnostic.help.as_deref().unwrap_or_default();
    let span = found.diagnostic.span;
    let at = text.get(span.start..span.end).unwrap_or_default();
    format!("{} {} [{at}] {help}", found.diagnostic.code, found.diagnostic.message)
}

/// The value of an expression, as JSON.
fn value(expr: &str) -> String {
    let text = format!("target \"t\" {{ labels = {{ v = jsonencode({expr}) }} }}");
    let chosen = choose(&[("f.hcl", &text)], &["t"], &[]).unwrap_or_else(|e| panic!("{expr}: {e}"));
    let found = chosen.targets["t"].map("labels").next().map(|(_, value)| value.to_owned());
    found.expect("the label is there")
}

#[test]
fn expressions() {
    for (expr, expected) in [
        ("1 + 2 * 3", "7"),
        ("-(4 - 6) % 2 == 0 && !false", "true"),
        ("\"a${1 + 1}b\"", r#""a2b""#),
        ("\"${[1, 2]}\"", "[1,2]"),
        ("true ? \"x\" : nothing()", r#""x""#),
        ("[for v in [\"a\", \"b\"] : upper(v) if v != \"a\"]", r#"["B"]"#),
        ("{for k, v in {a = 1} : v => k}", r#"{"1":"a"}"#),
        (
            "{for v in [\"ab\", \"ac\", \"b\"] : substr(v, 0, 1) => v...}",
            r#"{"a":["ab","ac"],"b":["b"]}"#,
        ),
        ("{a = {b = [1, 2]}}.a.b[1]", "2"),
        ("[{n = 1}, {n = 2}][*].n", "[1,2]"),
        ("\"%{ for v in [1, 2] }<${v}>%{ endfor }\"", r#""\u003c1\u003e\u003c2\u003e""#),
        ("\"%{ if 1 > 2 }a%{ else }b%{ endif }\"", r#""b""#),
        ("try(missing.x, \"else\")", r#""else""#),
        ("can(1 + true)", "false"),
        ("convert(\"4\", number)", "4"),
        ("BAKE_LOCAL_PLATFORM", r#""linux/amd64""#),
        ("max([1, 5, 3]...)", "5"),
    ] {
        assert_eq!(value(expr), expected, "{expr}");
    }
}

#[test]
fn functions_of_the_standard_library() {
    for (expr, expected) in [
        ("absolute(-3)", "3"),
        ("add(1, 2)", "3"),
        ("and(true, false)", "false"),
        ("base64encode(\"hi\")", r#""aGk=""#),
        ("base64decode(\"aGk=\")", r#""hi""#),
        ("basename(\"/a/b.c\")", r#""b.c""#),
        ("byteslen(\"é\")", "2"),
        ("bytesslice(\"hello\", 1, 3)", r#""ell""#),
        ("ceil(1.2)", "2"),
        ("chomp(\"a\\n\\n\")", r#""a""#),
        ("chunklist([1, 2, 3], 2)", "[[1,2],[3]]"),
        ("cidrhost(\"10.12.112.0/20\", 16)", r#""10.12.112.16""#),
        ("cidrnetmask(\"172.16.0.0/12\")", r#""255.240.0.0""#),
        ("cidrsubnet(\"172.16.0.0/12\", 4, 2)", r#""172.18.0.0/16""#),
        ("cidrsubnets(\"10.1.0.0/16\", 4, 4)", r#"["10.1.0.0/20","10.1.16.0/20"]"#),
        ("coalesce(null, \"a\")", r#""a""#),
        ("coalescelist([], [1])", "[1]"),
        ("compact([\"a\", \"\", \"b\"])", r#"["a","b"]"#),
        ("concat([1], [2])", "[1,2]"),
        ("contains([\"a\"], \"a\")", "true"),
        ("csvdecode(\"a,b\\n1,2\")", r#"[{"a":"1","b":"2"}]"#),
        ("dirname(\"/a/b.c\")", r#""/a""#),
        ("distinct([1, 1, 2])", "[1,2]"),
        ("divide(7, 2)", "3.5"),
        ("element([1, 2], 3)", "2"),
        ("equal(1, 1)", "true"),
        ("flatten([[1], [[2]]])", "[1,2]"),
        ("floor(1.8)", "1"),
        ("format(\"%s-%03d-%t\", \"a\", 7, true)", r#""a-007-true""#),
        ("format(\"%5.1f|%-4s|%q|%x\", 3.14159, \"ab\", \"c\", 255)", r#""  3.1|ab  |\"c\"|ff""#),
        ("formatdate(\"YYYY-MM-DD'T'hh:mm\", \"2024-02-03T04:05:06Z\")", r#""2024-02-03T04:05""#),
        ("formatlist(\"%s!\", [\"a\", \"b\"])", r#"["a!","b!"]"#),
        ("greaterthan(2, 1)", "true"),
        ("hasindex([1], 1)", "false"),
        ("homedir()", r#""/home/u""#),
        ("indent(2, \"a\\nb\")", r#""a\n  b""#),
        ("index([1, 2], 1)", "2"),
        ("indexof([\"a\", \"b\"], \"b\")", "1"),
        ("int(6.9)", "6"),
        ("join(\"-\", [\"a\", \"b\"], [\"c\"])", r#""a-b-c""#),
        ("jsondecode(\"{\\\"a\\\": [1]}\")", r#"{"a":[1]}"#),
        ("keys({b = 1, a = 2})", r#"["a","b"]"#),
        ("length([1, 2])", "2"),
        ("log(16, 2)", "4"),
        ("lookup({a = 1}, \"b\", 2)", "2"),
        ("lower(\"AB\")", r#""ab""#),
        ("md5(\"a\")", r#""0cc175b9c0f1b6a831c399e269772661""#),
        ("merge({a = 1}, {b = 2})", r#"{"a":1,"b":2}"#),
        ("min(3, 2)", "2"),
        ("modulo(7, 4)", "3"),
        ("multiply(2, 3)", "6"),
        ("negate(1)", "-1"),
        ("parseint(\"ff\", 16)", "255"),
        ("pow(2, 10)", "1024"),
        ("range(1, 7, 2)", "[1,3,5]"),
        ("regex(\"[0-9]+\", \"ab12\")", r#""12""#),
        ("regexall(\"[a-z]\", \"a1b\")", r#"["a","b"]"#),
        ("regex_replace(\"v1.2\", \"[.]\", \"-\")", r#""v1-2""#),
        ("replace(\"a.b.c\", \".\", \"-\")", r#""a-b-c""#),
        ("reverse(\"abc\")", r#""cba""#),
        ("reverselist([1, 2])", "[2,1]"),
        ("sanitize(\"a.b/c\")", r#""a_b_c""#),
        ("semvercmp(\"1.10.0\", \">= 1.9\")", "true"),
        ("setintersection([1, 2], [2, 3])", "[2]"),
        ("setproduct([1, 2], [\"a\"])", r#"[[1,"a"],[2,"a"]]"#),
        ("setsubtract([1, 2], [1])", "[2]"),
        ("setunion([1], [2])", "[1,2]"),
        ("sha1(\"a\")", r#""86f7e437faa5a7fce15d1ddcb9eaeaea377667b8""#),
        ("substr(sha256(\"a\"), 0, 8)", r#""ca978112""#),
        ("substr(sha512(\"a\"), 0, 8)", r#""1f40fc92""#),
        ("signum(-9)", "-1"),
        ("slice([1, 2, 3], 1, 2)", "[2]"),
        ("sort([\"b\", \"a\"])", r#"["a","b"]"#),
        ("split(\",\", \"a,b\")", r#"["a","b"]"#),
        ("strlen(\"é\")", "1"),
        ("substr(\"hello\", -3, -1)", r#""llo""#),
        ("subtract(3, 2)", "1"),
        ("timeadd(\"2024-01-01T00:00:00Z\", \"90m\")", r#""2024-01-01T01:30:00Z""#),
        ("timestamp()", r#""2023-11-14T22:13:20Z""#),
        ("title(\"hello world\")", r#""Hello World""#),
        ("trim(\"?a?\", \"?\")", r#""a""#),
        ("trimprefix(\"v1\", \"v\")", r#""1""#),
        ("trimspace(\" a \")", r#""a""#),
        ("trimsuffix(\"a.go\", \".go\")", r#""a""#),
        ("unixtimestampparse(0).year", "1970"),
        ("upper(\"a\")", r#""A""#),
        ("urlencode(\"a b&\")", r#""a+b%26""#),
        ("uuidv5(\"dns\", \"example.com\")", r#""cfbff0d1-9375-5685-968c-48ce8b15ae17""#),
        ("strlen(uuidv4())", "36"),
        ("values({b = 1, a = 2})", "[2,1]"),
        ("zipmap([\"a\"], [1])", r#"{"a":1}"#),
    ] {
        assert_eq!(value(expr), expected, "{expr}");
    }
}

#[test]
fn variables_and_the_environment() {
    for (text, expected) in [
        ("variable \"X\" { default = \"d\" }\ntarget \"t\" { tags = [X] }", r#"{"tags":["d"]}"#),
        (
            "variable \"VERSION\" { default = \"1\" }\ntarget \"t\" { tags = [\"a:${VERSION}\"] }",
            r#"{"tags":["a:9"]}"#,
        ),
        (
            "variable \"VERSION\" { default = 1 }\ntarget \"t\" { args = { V = VERSION + 1 } }",
            r#"{"args":{"V":"10"}}"#,
        ),
        (
            "variable \"DEBUG\" { default = false }\ntarget \"t\" { tags = DEBUG ? [\"dev\"] : [] }",
            r#"{"tags":["dev"]}"#,
        ),
        ("variable \"GIVEN\" {}\ntarget \"t\" { tags = [GIVEN] }", r#"{"tags":["var"]}"#),
        (
            "variable \"LIST\" { type = list(string) }\ntarget \"t\" { tags = LIST }",
            r#"{"tags":["a","b,c"]}"#,
        ),
        (
            "variable \"MAP\" { type = map(string) }\ntarget \"t\" { args = MAP }",
            r#"{"args":{"k":"v","l":"w"}}"#,
        ),
        (
            "variable \"OBJECT\" { type = object({a = string, b = number}) }\ntarget \"t\" { tags = [OBJECT.a, OBJECT.b] }",
            r#"{"tags":["1","2"]}"#,
        ),
        (
            "variable \"NO\" {}\ntarget \"t\" { args = { A = NO, B = null } }",
            r#"{"args":{"A":""}}"#,
        ),
        ("variable \"NO\" { type = string }\ntarget \"t\" { args = { A = NO } }", "{}"),
        ("a = \"${b}!\"\nb = \"x\"\ntarget \"t\" { tags = [a] }", r#"{"tags":["x!"]}"#),
        // A top-level attribute is not overridden.
        ("VERSION = \"1\"\ntarget \"t\" { tags = [VERSION] }", r#"{"tags":["1"]}"#),
    ] {
        assert_eq!(target(text), expected, "{text}");
    }
}

#[test]
fn user_functions_targets_and_heredocs() {
    for (text, expected) in [
        (
            "function \"tag\" {\n params = [name]\n variadic_params = more\n result = [\"${name}:${join(\"-\", more)}\"]\n}\ntarget \"t\" { tags = tag(\"a\", \"1\", \"2\") }",
            r#"{"tags":["a:1-2"]}"#,
        ),
        (
            "function \"twice\" {\n params = [n]\n result = n * 2\n}\ntarget \"t\" { args = { A = twice(twice(2)) } }",
            r#"{"args":{"A":"8"}}"#,
        ),
        (
            "target \"o\" {\n args = { V = \"1\" }\n tags = [\"x\"]\n}\ntarget \"t\" { tags = [\"a:${target.o.args.V}\", target.o.tags[0], target.o.name] }",
            r#"{"tags":["a:1","x","o"]}"#,
        ),
        (
            "target \"t\" {\n dockerfile-inline = <<EOF\nFROM a\nRUN b\nEOF\n}",
            r#"{"dockerfile-inline":"FROM a\nRUN b\n"}"#,
        ),
        (
            "target \"t\" {\n dockerfile-inline = <<-EOF\n  FROM a\n    RUN b\n  EOF\n}",
            r#"{"dockerfile-inline":"FROM a\n  RUN b\n"}"#,
        ),
    ] {
        assert_eq!(target(text), expected, "{text}");
    }
}

#[test]
fn all_attributes() {
    let text = r#"target "t" {
  annotations = ["index:a=b"]
  attest = [{type = "provenance", mode = "max"}, "type=sbom"]
  cache-from = ["user/app:cache", {type = "local", src = "c"}]
  cache-to = ["type=registry,ref=r"]
  call = "check"
  contexts = { base = "target:o" }
  description = "what"
  entitlements = ["network.host"]
  extra-hosts = { a = "10.0.0.1" }
  labels = { l = 1 }
  network = "none"
  no-cache = true
  no-cache-filter = ["s"]
  output = ["out", "type=oci,dest=o.tar", {type = "registry"}]
  platforms = ["linux/amd64"]
  pull = true
  secret = ["id=a,src=f", {id = "b", env = "B"}]
  shm-size = "64m"
  ssh = ["default", {id = "k", paths = ["p", "q"]}]
  target = "s"
  ulimits = ["nofile=1:2"]
}
target "o" {}"#;
    insta::assert_snapshot!(target(text), @r##"{"annotations":["index:a=b"],"attest":[{"mode":"max","type":"provenance"},{"type":"sbom"}],"cache-from":[{"ref":"user/app:cache","type":"registry"},{"src":"c","type":"local"}],"cache-to":[{"ref":"r","type":"registry"}],"call":"check","contexts":{"base":"target:o"},"description":"what","entitlements":["network.host"],"extra-hosts":{"a":"10.0.0.1"},"labels":{"l":"1"},"network":"none","no-cache":true,"no-cache-filter":["s"],"output":[{"dest":"out","type":"local"},{"dest":"o.tar","type":"oci"},{"type":"registry"}],"platforms":["linux/amd64"],"pull":true,"secret":[{"id":"a","src":"f"},{"env":"B","id":"b"}],"shm-size":"64m","ssh":[{"id":"default"},{"id":"k","paths":["p","q"]}],"target":"s","ulimits":["nofile=1:2"]}"##);
}

#[test]
fn inheritance_and_merging() {
    let text = r#"
target "base" {
  description = "base"
  args = { A = "1", B = "1" }
  tags = ["base"]
  platforms = ["linux/amd64"]
  no-cache-filter = ["x"]
  cache-from = ["c"]
  output = ["type=registry"]
}
target "more" { args = { B = "2", C = "2" } }
target "t" {
  inherits = ["base", "more"]
  args = { C = "3", D = null }
  tags = ["own"]
  no-cache-filter = ["y"]
  cache-from = ["c", "d"]
}
target "t" { labels = { again = "yes" } }
"#;
    insta::assert_snapshot!(target(text), @r##"{"args":{"A":"1","B":"2","C":"3"},"cache-from":[{"ref":"c","type":"registry"},{"ref":"d","type":"registry"}],"labels":{"again":"yes"},"no-cache-filter":["x","y"],"output":[{"type":"registry"}],"platforms":["linux/amd64"],"tags":["own"]}"##);
    let over = (
        "o.json",
        r#"{"target": {"t": {"tags": ["over:${upper(\"x\")}"]}, "more": [{"args": {"C": "0"}}]}}"#,
    );
    let chosen = choose(&[("f.hcl", text), over], &["t"], &[]).expect("fine");
    assert_eq!(chosen.targets["t"].list("tags"), ["over:X"]);
    let args: Vec<_> = chosen.targets["t"].map("args").collect();
    assert_eq!(args, [("A", "1"), ("B", "2"), ("C", "3")]);
}

#[test]
fn groups_patterns_and_matrix() {
    let text = r#"
group "default" { targets = ["all", "single"] }
group "all" { targets = ["app", "single"] }
target "app" {
  name = "app-${v}-${replace(arch.name, ".", "")}"
  matrix = { v = ["1", "2"], arch = [{ name = "a.m" }, { name = "x" }] }
  tags = ["app:${v}"]
}
target "single" { contexts = { base = "target:app-1-x" } }
target "lonely" {}
"#;
    let wanted =
        |asked: &[&str]| choose(&[("f.hcl", text)], asked, &[]).expect("fine").wanted.join(" ");
    assert_eq!(wanted(&[]), "app-1-am app-2-am app-1-x app-2-x single");
    assert_eq!(wanted(&["lonely", "single"]), "lonely single");
    assert_eq!(wanted(&["app-?-x"]), "app-1-x app-2-x");
    assert_eq!(wanted(&["app"]), "app-1-am app-2-am app-1-x app-2-x");
    let chosen = choose(&[("f.hcl", text)], &["single"], &[]).expect("fine");
    assert_eq!(chosen.targets.keys().collect::<Vec<_>>(), ["app-1-x", "single"]);
    assert_eq!(
        json(&chosen.targets["app-1-x"]),
        r#"{"context":".","dockerfile":"Dockerfile","output":[{"type":"cacheonly"}],"tags":["app:1"]}"#
    );
    assert_eq!(chosen.groups["default"], ["single"]);
}

#[test]
fn overrides() {
    let text = r#"
group "g" { targets = ["t"] }
target "t" {
  args = { A = "1" }
  tags = ["x"]
  output = ["type=registry"]
  secret = ["id=s,src=old"]
}
target "child" { inherits = ["t"] }
"#;
    for (sets, expected) in [
        (
            &["t.args.A=2"][..],
            r#"{"args":{"A":"2"},"output":[{"type":"registry"}],"secret":[{"id":"s","src":"old"}],"tags":["x"]}"#,
        ),
        (
            &["*.args.VERSION", "*.tags+=y", "*.output=", "*.secret.s=new"],
            r#"{"args":{"A":"1","VERSION":"9"},"secret":[{"id":"s","src":"new","type":"file"}],"tags":["x","y"]}"#,
        ),
        (
            &[
                "t.tags=a",
                "t.tags=b",
                "g.platform=linux/arm64",
                "t.output=out",
                "t.secrets=",
                "t.args.A=",
            ],
            r#"{"args":{"A":""},"output":[{"dest":"out","type":"local"}],"platforms":["linux/arm64"],"tags":["a","b"]}"#,
        ),
        (
            &[
                "t.no-cache=true",
                "t.pull=1",
                "t.tags=",
                "t.output+=type=oci,dest=o",
                "t.secrets=id=b,env=B",
                "t.context=dir",
            ],
            r#"{"args":{"A":"1"},"context":"dir","no-cache":true,"output":[{"type":"registry"},{"dest":"o","type":"oci"}],"pull":true,"secret":[{"env":"B","id":"b"}]}"#,
        ),
    ] {
        let chosen =
            choose(&[("f.hcl", text)], &["t"], sets).unwrap_or_else(|e| panic!("{sets:?}: {e}"));
        let mut json = chosen.targets["t"].to_json();
        let members = json.as_object_mut().expect("a target is an object");
        members.remove("dockerfile");
        if members["context"] == "." {
            members.remove("context");
        }
        assert_eq!(json.to_string(), expected, "{sets:?}");
    }
    // What a parent is set to, its child inherits.
    let chosen = choose(&[("f.hcl", text)], &["child"], &["t.args.A=5"]).expect("fine");
    assert_eq!(chosen.targets["child"].map("args").collect::<Vec<_>>(), [("A", "5")]);
    for (set, message) in [
        ("t=1", "expected target.attribute=value"),
        ("t.tag=1", "no attribute \"tag\""),
        ("u.tags=1", "no target \"u\""),
        ("t.args=1", "args takes a name"),
        ("t.context+=1", "is no list"),
        ("t.inherits=x", "no attribute \"inherits\""),
        ("t.no-cache=maybe", "true or false"),
        ("t.tags.x=1", "no members"),
        ("t.tags", "value is missing"),
        ("t.secret=x", "secret takes an id"),
    ] {
        let found = choose(&[("f.hcl", text)], &["t"], &[set]).expect_err(set).to_string();
        assert!(found.contains(message), "{set}: {found}");
    }
}

#[test]
fn mistakes_say_where_and_what_to_do() {
    for (text, code, message) in [
        ("target \"t\" {", "E0701", "["),
        ("target \"t\" { tgas = [] }", "E0703", "did you mean `tags`?"),
        ("target \"t\" { tags = \"x\" }", "E0703", "a list is needed, not a string [\"x\"]"),
        ("target \"t\" { tags = [[1]] }", "E0703", "a string is needed, not a list"),
        (
            "target \"t\" { tags = [VERSOIN] }\nvariable \"VERSION\" {}",
            "E0704",
            "[VERSOIN] did you mean `VERSION`?",
        ),
        ("target \"t\" { tags = [upperr(\"x\")] }", "E0705", "did you mean `upper`?"),
        ("target \"t\" { tags = [upper()] }", "E0705", "upper takes one argument, not 0"),
        ("target \"t\" { tags = [bcrypt(\"x\")] }", "E0705", "hand it in as a variable"),
        ("target \"t\" {\n args {\n  A = 1\n }\n}", "E0703", "write args = { … }"),
        ("taget \"t\" {}", "E0702", "did you mean `target`?"),
        ("target {}", "E0702", "target takes one name, not 0"),
        ("target \"a b\" {}", "E0702", "is no name"),
        ("target \"t\" { inherits = [\"x\"] }", "E0709", "no target or group \"x\""),
        (
            "target \"t\" { inherits = [\"u\"] }\ntarget \"u\" { inherits = [\"t\"] }",
            "E0707",
            "the circle is t → u → t",
        ),
        (
            "target \"t\" { contexts = { c = \"target:u\" } }\ntarget \"u\" { contexts = { c = \"target:t\" } }",
            "E0707",
            "the circle is t → u → t",
        ),
        ("target \"t\" { contexts = { c = \"target:nope\" } }", "E0709", "nope"),
        (
            "variable \"A\" { default = B }\nvariable \"B\" { default = A }",
            "E0707",
            "the circle is A → B → A",
        ),
        (
            "function \"f\" {\n params = []\n result = f()\n}\ntarget \"t\" { tags = [f()] }",
            "E0707",
            "f() needs itself",
        ),
        ("target \"t\" { tags = target.t.tags }", "E0707", "target.t.tags needs itself"),
        ("target \"t\" { matrix = { a = [1] } }", "E0703", "matrix needs name"),
        ("target \"t\" {\n name = \"x\"\n matrix = { a = [1, 2] }\n}", "E0703", "comes twice"),
        ("variable \"COUNT\" { default = 1 }", "E0708", "COUNT=many is no number"),
        ("variable \"LIST\" { default = [] }", "E0708", "type = list(string)"),
        (
            "variable \"X\" {\n default = 1\n validation {\n  condition = X > 1\n  error_message = \"too small\"\n }\n}",
            "E0708",
            "too small [X > 1]",
        ),
        ("variable \"X\" { type = strin }", "E0708", "no type \"strin\""),
        (
            "target \"t\" { tags = [\"a${null}\"] }",
            "E0706",
            "give another value where it may be null",
        ),
        ("target \"u\" {}", "E0709", "there is no target or group \"t\""),
    ] {
        let found = error(text);
        assert!(found.starts_with(code) && found.contains(message), "{text}: {found}");
    }
}

#[test]
fn bombs_end() {
    let doubling = {
        let mut text = "variable \"v0\" { default = \"0123456789\" }\n".to_owned();
        for n in 1..60 {
            text.push_str(&format!(
                "variable \"v{n}\" {{ default = \"${{v{0}}}${{v{0}}}\" }}\n",
                n - 1
            ));
        }
        text
    };
    let lists = {
        let mut text = "v0 = [1, 2]\n".to_owned();
        for n in 1..60 {
            text.push_str(&format!("v{n} = concat(v{0}, v{0})\n", n - 1));
        }
        text
    };
    let loops = format!("x = {}1{}", "[for a in range(0, 1000) : ".repeat(8), "]".repeat(8));
    let deep = format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let parens = format!("x = {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    let blocks = format!("{}{}", "target \"t\" {\n".repeat(50_000), "}\n".repeat(50_000));
    let nots = format!("x = {}true", "!".repeat(100_000));
    let sum = format!("x = 1{}", " + 1".repeat(100_000));
    let members = format!("x = a{}", ".b".repeat(100_000));
    let template = format!("x = \"{}1{}\"", "${\"".repeat(5_000), "\"}".repeat(5_000));
    let conditional = format!("x = {}1", "true ? 1 : ".repeat(20_000));
    let chain = (0..5_000).map(|n| format!("v{n} = v{} + 1\n", n + 1)).collect::<String>();
    let range = "x = range(0, 1e15)".to_owned();
    let matrix =
        "target \"t\" {\n name = \"a\"\n matrix = { a = range(0, 90), b = range(0, 90) }\n}"
            .to_owned();
    let calls = {
        let mut text = "function \"f0\" {\n params = [n]\n result = n\n}\n".to_owned();
        for n in 1..60 {
            text.push_str(&format!(
                "function \"f{n}\" {{\n params = [n]\n result = f{0}(n) + f{0}(n)\n}}\n",
                n - 1
            ));
        }
        text + "x = f59(1)\n"
    };
    let big = format!("x = \"{}\"", "a".repeat(5 << 20));
    let format = "x = format(\"%9999999s\", \"a\")".to_owned();
    let copies = format!("v = range(0, 90000)\nx = [{}]", "v, ".repeat(2_000));
    let crowd =
        format!("x = {{ {} }}", (0..10_000).map(|n| format!("a{n} = 1\n")).collect::<String>());
    let twice = format!("x={}1", "Y%{Y<=".repeat(60));
    let hidden = format!("x=\"${{{}1", "Y%{Y<=".repeat(60));
    let rows = (0..4).map(|n| {
        format!(
            "target \"t{n}\" {{\n name = \"t{n}-${{a}}\"\n matrix = {{ a = range(0, 2000) }}\n}}\n"
        )
    });
    let targets = rows.collect::<String>();
    for (name, text) in [
        ("doubling", doubling),
        ("lists", lists),
        ("loops", loops),
        ("deep", deep),
        ("parens", parens),
        ("blocks", blocks),
        ("nots", nots),
        ("sum", sum),
        ("members", members),
        ("template", template),
        ("conditional", conditional),
        ("chain", chain),
        ("range", range),
        ("matrix", matrix),
        ("calls", calls),
        ("big", big),
        ("format", format),
        ("copies", copies),
        ("crowd", crowd),
        ("twice", twice),
        ("hidden", hidden),
        ("targets", targets),
    ] {
        let found = load(&[("f.hcl", &text)]).err().map(|error| error.to_string());
        assert!(found.is_some(), "{name} was taken");
    }
    let deep = format!(
        "{{\"target\": {{\"t\": {{\"args\": {}1{} }}}}}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    assert!(load(&[("f.json", &deep)]).is_err());
    let deep = format!("services: {}{}", "[".repeat(50_000), "]".repeat(50_000));
    assert!(load(&[("f.yaml", &deep)]).is_err());
    let members: Vec<String> = (0..10_000).map(|n| format!("\"a{n}\": 1")).collect();
    let members = format!("{{\"target\": {{\"t\": {{\"args\": {{{}}}}}}}}}", members.join(","));
    assert!(load(&[("f.json", &members)]).is_err());
    let services: String = (0..9_000).map(|n| format!(" a{n}: {{build: .}}\n")).collect();
    assert!(load(&[("f.yaml", &format!("services:\n{services}"))]).is_err());
    // Little text that aliases make much of: of lists in lists, and of one long text.
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..7 {
        laughs.push_str(&format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(8)));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(50_000), "*a, ".repeat(1_000));
    for text in [laughs, long] {
        let error = load(&[("f.yaml", &text)]).expect_err("it is a bomb").to_string();
        assert!(error.contains("alias") || error.contains("repetition"), "{error}");
    }
}

/// Targets that inherit from each other twice, and are each other's contexts by two ways.
#[test]
fn diamonds_end() {
    let mut inherits = "target \"t0\" {\n tags = [\"a\"]\n ulimits = [\"a=1\"]\n}\n".to_owned();
    let mut contexts = "target \"t0\" {}\n".to_owned();
    for n in 1..60 {
        let base = n - 1;
        inherits
            .push_str(&format!("target \"t{n}\" {{ inherits = [\"t{base}\", \"t{base}\"] }}\n"));
        contexts.push_str(&format!(
            "target \"t{n}\" {{\n contexts = {{ a = \"target:t{base}\", b = \"target:t{base}\" }}\n}}\n"
        ));
    }
    // Lists of some kinds are joined, so that they double sixty times.
    let error = choose(&[("f.hcl", &inherits)], &["t59"], &[]).expect_err("it is a bomb");
    assert!(error.to_string().contains("more than 16 MiB"), "{error}");
    let chosen = choose(&[("f.hcl", &contexts)], &["t59"], &[]).expect("it is read");
    assert_eq!(chosen.targets.len(), 60);
}

/// Found by fuzzing: the parser's place lies within a character.
#[test]
fn errors_of_the_parser_stand_between_characters() {
    for text in [
        "r=avalues(#        \u{da}",
        "iable\": {\"V\": {\"default\": \"x\"}}, \"group\": {\"defa\u{486}",
    ] {
        let error = load(&[("f.hcl", text)]).expect_err(text);
        assert!(text.get(error.diagnostic.span.start..error.diagnostic.span.end).is_some());
    }
}

mod property {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that files are made of, so that most of the text is understood.
    const PIECES: [&str; 44] = [
        "target \"t\" {",
        "}",
        "\n",
        "tags = ",
        "[",
        "]",
        "\"a\"",
        "${",
        "\"${X}\"",
        "variable \"X\" {",
        "default = ",
        "function \"f\" {",
        "params = [a]",
        "result = ",
        "f(",
        ")",
        "a",
        "X",
        "1",
        "-1",
        "null",
        "true",
        " ? ",
        " : ",
        "[for v in ",
        "v",
        "{for k, v in ",
        "k => v",
        "matrix = { m = [1, 2] }",
        "name = \"n${m}\"",
        " + ",
        "...",
        "upper(",
        "split(\",\", ",
        "format(\"%d\", ",
        "substr(\"é\", ",
        ", ",
        ".x",
        "[0]",
        "target.t.tags",
        "<<E\n",
        "E\n",
        "%{ if true }",
        "%{ endif }",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

        #[test]
        fn nothing_panics_or_hangs(pieces in proptest::collection::vec(0..PIECES.len(), 0..60), name in 0..3usize) {
            let text: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
            let name = ["f.hcl", "f.json", "compose.yaml"][name];
            let _ = choose(&[(name, &text)], &["t"], &["*.tags=x"]);
        }

        #[test]
        fn arguments_of_functions_are_checked(function in 0..200usize, args in proptest::collection::vec(0..14usize, 0..4)) {
            const VALUES: [&str; 14] = ["null", "true", "0", "-1", "1e300", "\"\"", "\"é,\\n1\"", "\"10.0.0.0/8\"", "[]", "[1, [\"a\"]]", "{}", "{a = null}", "\"2024-01-01T00:00:00Z\"", "99999"];
            let names: Vec<&str> = functions::names().collect();
            let args: Vec<&str> = args.iter().map(|arg| VALUES[*arg]).collect();
            let text = format!("x = {}({})", names[function % names.len()], args.join(", "));
            let _ = load(&[("f.hcl", &text)]);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}", name in 0..3usize) {
            let _ = load(&[(["f.hcl", "f.json", "f.yaml"][name], &text)]);
        }
    }
}
