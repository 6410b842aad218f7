target "f" {
  args = {
    a = jsonencode(jsondecode("[1, {\"a\": null}]"))
    b = regex_replace("abc", "(b)", "<$1>")
    c = formatdate("YYYY-MM-DD", timeadd(timestamp(), "1h"))
    d = cidrsubnet("10.0.0.0/8", 8, 2)
    e = base64encode(sha256(urlencode("a b")))
    f = join("|", flatten([sort(["b", "a"]), [for p in setproduct(["x"], ["y", "z"]) : join("", p)]]))
    g = semvercmp("1.2.3", ">= 1") ? "y" : "n"
    h = csvdecode("a,b\n1,2")[0].a
    i = indent(2, "a\nb")
    j = substr("hello", 1, -1)
  }
}
