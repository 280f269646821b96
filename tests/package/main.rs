//! The package on a real systemd, beside a real broker and a real app: `make test-systemd` builds and tests it. Each test
//! has a container of its own, and sees that nothing of it is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/container.rs"]
mod container;
mod deploys;
mod host;
mod installed;
mod interrupted;
mod manager;
mod reboot;
mod tarball;
mod trouble;

/// The app `hello`, as most apps are deployed.
const HELLO: &str = "apps:
- repo: octocat/hello
  service: hello
  branch: main
  settle: 200ms
  update: {command: [/usr/local/bin/switch-hello], user: deploy}
";

/// The same app with every step that a deploy can have, each of which a test can hold up.
const ALL_STEPS: &str = "apps:
- repo: octocat/hello
  service: hello
  branch: main
  settle: 200ms
  prepare: {command: [/usr/local/bin/step, prepare], user: deploy}
  update: {command: [/usr/local/bin/step, update, /usr/local/bin/switch-hello], user: deploy}
  check: {command: [/usr/local/bin/step, check], user: deploy}
";
