//! Every system call, thin wrappers. The only place with `unsafe` code.
