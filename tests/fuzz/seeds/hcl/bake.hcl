variable "TAG" { default = "latest" }
variable "COUNT" {
  type    = number
  default = 3
  validation {
    condition     = COUNT > 0
    error_message = "needs one"
  }
}
function "tags" {
  params          = [name]
  variadic_params = more
  result          = concat(["${name}:${TAG}"], [for m in more : upper(m)])
}
group "default" { targets = ["app", "test"] }
target "base" {
  args      = { N = COUNT, S = join(",", range(COUNT)), Q = try(nope, "x") }
  platforms = ["linux/amd64", BAKE_LOCAL_PLATFORM]
}
target "app" {
  inherits   = ["base"]
  tags       = tags("app", "b")
  contexts   = { src = "target:base" }
  secret     = ["id=a,env=B", { id = "c", src = "d" }]
  cache-from = ["type=registry,ref=a"]
  dockerfile-inline = <<-EOF
    FROM scratch
    LABEL a="%{ if TAG == "latest" }x%{ else }y%{ endif }"
  EOF
}
target "test" {
  name   = "test-${v.name}-${a}"
  matrix = { v = [{ name = "x" }, { name = "y" }], a = ["1", "2"] }
  args   = { V = v.name, T = target.app.args.N, K = format("%05.2f|%-5s|%v", 1.5, "a", { a = [1] }) }
  labels = { for k, x in { a = 1, b = 2 } : k => "${x}" if x > 1 }
}
