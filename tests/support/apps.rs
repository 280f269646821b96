//! Configurations that several tests begin with.

/// One app without commands.
pub const API: &str = "apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]";
/// Another one.
pub const WEB: &str = "apps: [{repo: acme/web, service: web, branch: main, settle: 0s}]";
/// Both.
pub const API_AND_WEB: &str = "
apps:
- {repo: acme/api, service: api, branch: main, settle: 0s}
- {repo: acme/web, service: web, branch: main, settle: 0s}
";
/// The first with every step a command, beside the second.
pub const STEPS: &str = r#"
apps:
- repo: acme/api
  service: api
  branch: main
  prepare: {command: ["{dir}/do", prepare, api], dir: "{dir}"}
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  check: {command: ["{dir}/do", check, api], dir: "{dir}"}
  settle: 0s
- {repo: acme/web, service: web, branch: main, settle: 0s}
"#;
/// Has each outcome told, whatever the apps.
pub const ON_OUTCOME: &str = r#"
on_outcome: {command: ["{dir}/do", outcome, all], dir: "{dir}"}
"#;
