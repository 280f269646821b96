//! Bodies of GitHub's `push` webhook, as large as real ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// What a push is about. The defaults are an ordinary push to `main`.
#[derive(Debug, Clone)]
pub struct Push {
    pub repo: String,
    pub git_ref: String,
    pub before: String,
    pub after: String,
    pub deleted: bool,
    pub default_branch: Option<String>,
    pub pushed_at: u64,
    pub commits: usize,
}

/// A commit id made of one digit.
pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// What no other push says was before it: each is another push, as GitHub's are.
fn another_commit() -> String {
    static PUSHES: AtomicU64 = AtomicU64::new(0);
    format!("b4{:038x}", PUSHES.fetch_add(1, Ordering::Relaxed))
}

impl Push {
    /// A push of the commit made of `digit` to the branch `main`.
    pub fn new(repo: &str, digit: char) -> Self {
        Self {
            repo: repo.to_owned(),
            git_ref: "refs/heads/main".to_owned(),
            before: another_commit(),
            after: commit(digit),
            deleted: false,
            default_branch: Some("main".to_owned()),
            pushed_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
            commits: 1,
        }
    }

    /// To another branch.
    #[must_use]
    pub fn to(self, branch: &str) -> Self {
        Self { git_ref: format!("refs/heads/{branch}"), ..self }
    }

    /// That removed its branch.
    #[must_use]
    pub fn deletion(self) -> Self {
        Self { deleted: true, ..self }
    }

    /// Of a tag.
    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        Self { git_ref: format!("refs/tags/{tag}"), ..self }
    }

    fn parts(&self) -> (&str, &str) {
        self.repo.split_once('/').unwrap()
    }

    /// Today's shape, some 8 KB.
    pub fn json(&self) -> Value {
        let (owner, _) = self.parts();
        let url = format!("https://github.com/{}", self.repo);
        let commits: Vec<Value> = (0..self.commits).map(|_| self.commit(&url)).collect();
        json!({
            "ref": self.git_ref,
            "before": self.before,
            "after": self.after,
            "repository": self.repository(&url),
            "pusher": {"name": "octocat", "email": "octocat@users.noreply.github.com"},
            "organization": {
                "login": owner, "id": 6_811_672, "node_id": "MDEyOk9yZ2FuaXphdGlvbjY4MTE2NzI=",
                "url": format!("https://api.github.com/orgs/{owner}"),
                "repos_url": format!("https://api.github.com/orgs/{owner}/repos"),
                "events_url": format!("https://api.github.com/orgs/{owner}/events"),
                "hooks_url": format!("https://api.github.com/orgs/{owner}/hooks"),
                "avatar_url": "https://avatars.githubusercontent.com/u/6811672?v=4", "description": "",
            },
            "sender": user("octocat"),
            "created": false,
            "deleted": self.deleted,
            "forced": false,
            "base_ref": null,
            "compare": format!("{url}/compare/{}...{}", &self.before[..12], &self.after[..12]),
            "head_commit": commits.last(),
            "commits": commits,
        })
    }

    fn repository(&self, url: &str) -> Value {
        let (owner, name) = self.parts();
        let api = format!("https://api.github.com/repos/{}", self.repo);
        let mut repository = Map::new();
        for resource in [
            "forks",
            "keys{/key_id}",
            "collaborators{/collaborator}",
            "teams",
            "hooks",
            "issues/events{/number}",
            "events",
            "assignees{/user}",
            "branches{/branch}",
            "tags",
            "git/blobs{/sha}",
            "git/tags{/sha}",
            "git/refs{/sha}",
            "git/trees{/sha}",
            "statuses/{sha}",
            "languages",
            "stargazers",
            "contributors",
            "subscribers",
            "subscription",
            "commits{/sha}",
            "git/commits{/sha}",
            "comments{/number}",
            "issues/comments{/number}",
            "contents/{+path}",
            "compare/{base}...{head}",
            "merges",
            "{archive_format}{/ref}",
            "downloads",
            "issues{/number}",
            "pulls{/number}",
            "milestones{/number}",
            "notifications{?since,all,participating}",
            "labels{/name}",
            "releases{/id}",
            "deployments",
        ] {
            let key: String =
                resource.chars().take_while(|c| *c != '{').collect::<String>().replace('/', "_");
            repository.insert(format!("{key}_url"), format!("{api}/{resource}").into());
        }
        let facts = json!({
            "id": 186_853_002, "node_id": "MDEwOlJlcG9zaXRvcnkxODY4NTMwMDI=", "name": name,
            "full_name": self.repo, "private": true, "owner": merged(user(owner), json!({"name": owner})),
            "html_url": url, "description": null, "fork": false, "url": url, "created_at": 1_557_933_565,
            "updated_at": "2026-05-15T15:20:41Z", "pushed_at": self.pushed_at, "size": 108, "homepage": null,
            "git_url": format!("git://github.com/{}.git", self.repo),
            "ssh_url": format!("git@github.com:{}.git", self.repo), "clone_url": format!("{url}.git"),
            "svn_url": url,
        });
        let more = json!({
            "stargazers_count": 0, "watchers_count": 0, "language": "Rust", "has_issues": true,
            "has_projects": true, "has_downloads": true, "has_wiki": true, "has_pages": false,
            "has_discussions": false, "forks_count": 0, "mirror_url": null, "archived": false, "disabled": false,
            "open_issues_count": 2, "license": null, "allow_forking": true, "is_template": false,
            "web_commit_signoff_required": false, "topics": [], "visibility": "private", "forks": 0,
            "open_issues": 2, "watchers": 0, "stargazers": 0, "organization": owner, "custom_properties": {},
        });
        let mut repository = merged(merged(repository.into(), facts), more);
        if let Some(branch) = &self.default_branch {
            repository = merged(repository, json!({"default_branch": branch, "master_branch": branch}));
        }
        repository
    }

    fn commit(&self, url: &str) -> Value {
        let author =
            json!({"name": "Mona Lisa", "email": "octocat@users.noreply.github.com", "username": "octocat"});
        json!({
            "id": self.after, "tree_id": "f9d2a07e9488b91af2641b26b9407fe22a451433", "distinct": true,
            "message": "Update README.md\n\nAnswer \"why\" as well. Größe: 3 µm \u{1f600}",
            "timestamp": "2026-05-15T11:20:40-04:00", "url": format!("{url}/commit/{}", self.after),
            "author": author, "committer": author, "added": [], "removed": [], "modified": ["README.md"],
        })
    }

    /// The shape of 2012's GitHub Services: no full name, no default branch, no time.
    pub fn json_of_2012(&self) -> Value {
        let (owner, name) = self.parts();
        let url = format!("http://github.com/{}", self.repo);
        json!({
            "before": self.before,
            "repository": {
                "url": url, "name": name, "description": "You're lookin' at it.", "watchers": 5, "forks": 2,
                "private": 1, "owner": {"email": format!("{owner}@example.com"), "name": owner},
            },
            "commits": [{
                "id": self.after, "url": format!("{url}/commit/{}", self.after), "message": "okay i give in",
                "author": {"email": "mona@example.com", "name": "Mona Lisa"},
                "timestamp": "2012-02-15T14:57:17-08:00", "added": ["filepath.rb"],
            }],
            "after": self.after,
            "ref": self.git_ref,
        })
    }

    /// [`Push::json`] as the bytes that GitHub would send.
    pub fn bytes(&self) -> Vec<u8> {
        in_order(&self.json())
    }

    /// [`Push::json`], made as large as this by what nobody reads.
    pub fn bytes_of(&self, size: usize) -> Vec<u8> {
        let json = self.json();
        let padding = size.saturating_sub(json.to_string().len() + r#","padding":"""#.len());
        in_order(&merged(json, json!({"padding": "x".repeat(padding)})))
    }

    /// The topic it is published on.
    pub fn topic(&self) -> String {
        format!("github/{}", self.repo)
    }
}

/// GitHub begins with these, whatever comes then.
fn in_order(json: &Value) -> Vec<u8> {
    const FIRST: [&str; 4] = ["ref", "before", "after", "repository"];
    let fields = json.as_object().unwrap();
    let first = FIRST.iter().map(|name| (*name, &fields[*name]));
    let rest = fields.iter().map(|(name, value)| (name.as_str(), value));
    let rest = rest.filter(|(name, _)| !FIRST.contains(name));
    let fields: Vec<String> = first.chain(rest).map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(",")).into_bytes()
}

fn user(login: &str) -> Value {
    let api = format!("https://api.github.com/users/{login}");
    let mut user = json!({
        "login": login, "id": 21_031_067, "node_id": "MDQ6VXNlcjIxMDMxMDY3", "gravatar_id": "",
        "avatar_url": "https://avatars.githubusercontent.com/u/21031067?v=4", "url": api,
        "html_url": format!("https://github.com/{login}"), "type": "User", "user_view_type": "public",
        "site_admin": false,
    });
    for resource in [
        "followers",
        "following{/other_user}",
        "gists{/gist_id}",
        "starred{/owner}{/repo}",
        "subscriptions",
        "organizations",
        "repos",
        "events{/privacy}",
        "received_events",
    ] {
        let key: String = resource.chars().take_while(|c| *c != '{').collect();
        user = merged(user, json!({format!("{key}_url"): format!("{api}/{resource}")}));
    }
    user
}

fn merged(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("no object") };
    object.as_object_mut().unwrap().extend(more);
    object
}
