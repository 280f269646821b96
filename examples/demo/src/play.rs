//! The play itself, act by act, and its end.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};

use crate::agent::{self, Agent};
use crate::app;
use crate::broker::{self, Broker};
use crate::http::{self, Answer};
use crate::payload::{Commit, Push};
use crate::repository::{self, REPO};
use crate::site::{SERVICE, Site};
use crate::stage::Stage;
use crate::watch::{self as log, Facts};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often to look at the app.
const LOOK: Duration = Duration::from_millis(10);
/// A repository that the agent knows nothing of.
const OTHER_REPO: &str = "octo-org/website";

/// The spectator has had enough.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Plays it, and ends what runs however it went.
pub(crate) async fn perform(
    site: &Site,
    stage: &Stage,
    keep: bool,
    interrupted: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    tokio::pin!(interrupted);
    let mut play = Play { site, stage, facts: log::start(stage), broker: None, agent: None, port: 0 };
    let told = tokio::select! {
        biased;
        () = &mut interrupted => Err(Interrupted.into()),
        () = sleep(DEADLINE) => Err(anyhow!("it was not done within {} s", DEADLINE.as_secs())),
        told = play.acts() => told,
    };
    if keep && told.is_ok() {
        play.invite();
        tokio::select! {
            () = &mut interrupted => {}
            () = play.keep_up() => {}
        }
    }
    let ended = play.end().await;
    told.and(ended)
}

/// Ends with Ctrl-C, or what means the same. Signals are caught from now on.
pub(crate) fn interrupted() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

struct Play<'a> {
    site: &'a Site,
    stage: &'a Stage,
    facts: Receiver<Facts>,
    broker: Option<Broker>,
    agent: Option<Agent>,
    /// The app's.
    port: u16,
}

impl Play<'_> {
    async fn acts(&mut self) -> anyhow::Result<()> {
        self.stage.say(&format!(
            "instance-agent: a push to GitHub restarts the app that it is for.\n\
             All of this happens in {} and on 127.0.0.1.",
            self.site.path().display()
        ));
        let first = self.run_the_app().await?;
        let broker = self.run_the_agent().await?;
        self.push_to_another_repository(&broker, &first).await?;
        let second = self.push_version_2(&broker, &first).await?;
        self.sum_up(&first, &second)
    }

    async fn run_the_app(&mut self) -> anyhow::Result<Answer> {
        self.stage.heading("An app, running from a checkout of its git repository");
        repository::create(self.site, self.stage).await?;
        self.stage.command("", &format!("./demo ctl --dir $PWD start {SERVICE}"));
        self.start_service().await?;
        let answer = http::get(self.port).await.context("the app does not answer")?;
        self.show(Some(&answer));
        ensure!(answer.page == "version 1", "the app should serve version 1");
        Ok(answer)
    }

    /// As the host would when it boots.
    async fn start_service(&mut self) -> anyhow::Result<()> {
        let dir = self.site.path();
        let mut command = Command::new(self.site.demo());
        command.args(["ctl", "--dir"]).arg(dir).args(["start", SERVICE]).kill_on_drop(true);
        let output = command.output().await.context("cannot start the app")?;
        ensure!(output.status.success(), "cannot start the app: {}", String::from_utf8_lossy(&output.stderr));
        let port_file = app::port_file(dir, SERVICE);
        let port = fs::read_to_string(&port_file).context("the app does not say its port")?;
        self.port = port.parse().with_context(|| format!("no port in {}", port_file.display()))?;
        Ok(())
    }

    async fn run_the_agent(&mut self) -> anyhow::Result<Channel> {
        self.stage.heading("The agent of this instance, with its configuration and an MQTT broker");
        let broker = self.broker.insert(Broker::start().await?);
        let channel = Channel { port: broker.port(), acknowledged: broker.acknowledged() };
        let config = agent::config(self.site, channel.port, REPO);
        let path = self.site.write_config(&config)?;
        self.stage.say(&format!("The broker listens on 127.0.0.1:{}.", channel.port));
        self.stage.command("", "cat config.yaml");
        self.stage.say(&config);
        self.stage.say("The agent starts as `instance-agent run --config config.yaml` would start it:");
        self.agent = Some(Agent::start(&path).await?);
        self.until(|facts| facts.subscribed).await?;
        Ok(channel)
    }

    async fn push_to_another_repository(&self, broker: &Channel, first: &Answer) -> anyhow::Result<()> {
        self.stage.heading(&format!("Someone pushes to another repository, {OTHER_REPO}"));
        let push = elsewhere();
        self.publish(broker, &push.topic(), &push.after, push.payload()?).await?;
        broker.acknowledged.clone().wait_for(|count| *count > 0).await.context("the broker has ended")?;
        // It says what it takes before it acknowledges it.
        ensure!(self.facts.borrow().taken == 0, "the agent took the push to {OTHER_REPO} for its own");
        self.stage.say("The agent has acknowledged it, and has nothing to say about it.");
        let answer = http::get(self.port).await.context("the app does not answer")?;
        self.show(Some(&answer));
        ensure!(answer == *first, "the push to {OTHER_REPO} should not have touched the app");
        self.stage.check(&format!("ignored: process {} goes on", answer.process));
        Ok(())
    }

    async fn push_version_2(&self, broker: &Channel, first: &Answer) -> anyhow::Result<Answer> {
        self.stage.heading(&format!("The developer pushes version 2 to {REPO}"));
        let commit = repository::push_version(self.site, self.stage, 2).await?;
        let payload = fs::read(self.site.payload()).context("git did not run the hook of origin.git")?;
        self.publish(broker, &format!("github/{REPO}"), &commit, payload).await?;
        let answer = self.until_deployed(first).await?;
        ensure!(answer.page == "version 2", "the app should serve version 2, but serves {}", answer.page);
        Ok(answer)
    }

    fn sum_up(&self, first: &Answer, second: &Answer) -> anyhow::Result<()> {
        self.stage.heading("What has happened");
        // The broker keeps the order: the agent has long decided about the other push.
        let Facts { taken, began, .. } = *self.facts.borrow();
        ensure!(
            (taken, began) == (1, 1),
            "of two pushes one should have been taken and deployed, but {taken} were taken, and {began} deploys begun"
        );
        ensure!(first.process != second.process, "the app was not restarted");
        self.stage.check(&format!("the push to {OTHER_REPO} restarted nothing"));
        self.stage.check(&format!(
            "the push to {REPO} restarted {SERVICE}: process {} served {}, process {} serves {}",
            first.process, first.page, second.process, second.page
        ));
        Ok(())
    }

    async fn publish(
        &self,
        broker: &Channel,
        topic: &str,
        commit: &str,
        payload: Vec<u8>,
    ) -> anyhow::Result<()> {
        self.stage
            .say(&format!("GitHub's webhook is published: topic {topic}, {} bytes, QoS 1", payload.len()));
        broker::publish(broker.port, topic, &delivery(commit), payload).await
    }

    /// Waits until the agent has logged what makes this true.
    async fn until(&self, reached: impl FnMut(&Facts) -> bool) -> anyhow::Result<()> {
        let mut facts = self.facts.clone();
        let mut reached = Box::pin(facts.wait_for(reached));
        loop {
            match timeout(LOOK, &mut reached).await {
                Ok(result) => return result.map(drop).context("the log has ended"),
                Err(_) => self.look_after_the_agent()?,
            }
        }
    }

    fn look_after_the_agent(&self) -> anyhow::Result<()> {
        self.stage.catch_up();
        ensure!(!self.agent.as_ref().is_some_and(Agent::has_ended), "the agent has ended");
        ensure!(self.facts.borrow().failed == 0, "the deploy failed: the agent says why");
        Ok(())
    }

    /// Watches the app until the agent says that it is deployed.
    async fn until_deployed(&self, first: &Answer) -> anyhow::Result<Answer> {
        let mut shown = Some(first.clone());
        loop {
            let deployed = self.facts.borrow().deployed > 0;
            let look = http::get(self.port).await.ok();
            if look != shown {
                self.show(look.as_ref());
                shown.clone_from(&look);
            }
            match look {
                Some(answer) if deployed => return Ok(answer),
                _ => self.look_after_the_agent()?,
            }
            sleep(LOOK).await;
        }
    }

    fn show(&self, look: Option<&Answer>) {
        let answer = look.map_or_else(|| "no answer: the app is down".to_owned(), Answer::to_string);
        self.stage.say(&format!("GET http://127.0.0.1:{}/ → {answer}", self.port));
    }

    /// Says what one can do while all this runs.
    fn invite(&self) {
        let (developer, payload) = (self.site.developer(), self.site.payload());
        let (developer, payload) = (quoted(&developer), quoted(&payload));
        let broker = self.broker.as_ref().map_or(0, Broker::port);
        self.stage.heading("Your turn: everything runs until you press Ctrl-C");
        self.stage.say(&format!(
            "Push another version; the hook of origin.git then writes the payload that GitHub would send:\n\n  \
             cd {developer} && echo 'version 3' > {page} && git commit -am 'Version 3' && git push origin main\n\n\
             Publish it:\n\n  \
             mosquitto_pub -h 127.0.0.1 -p {broker} -t github/{REPO} -q 1 -f {payload}\n\n\
             See which version is served:\n\n  \
             curl http://127.0.0.1:{port}/\n",
            page = app::PAGE,
            port = self.port,
        ));
    }

    /// Goes on showing what the app says.
    async fn keep_up(&self) {
        loop {
            self.stage.catch_up();
            sleep(LOOK).await;
        }
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stage.heading("The end: everything is stopped and removed");
        let agent = match self.agent {
            Some(agent) => agent.end().await,
            None => Ok(()),
        };
        let broker = match self.broker {
            Some(broker) => broker.end().await,
            None => Ok(()),
        };
        agent.and(broker)
    }
}

/// How the broker is reached, and what it says of the agent.
struct Channel {
    port: u16,
    acknowledged: Receiver<u32>,
}

/// A push that is none of the agent's business.
fn elsewhere() -> Push {
    Push {
        repo: OTHER_REPO.to_owned(),
        git_ref: "refs/heads/main".to_owned(),
        before: "6113728f27ae82c7b1a177c8d03f9e96e0adf246".to_owned(),
        after: "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c".to_owned(),
        commit: Commit {
            tree: "f9d2a07e9488b91af2641b26b9407fe22a451433".to_owned(),
            time: "2026-01-26T19:14:43Z".to_owned(),
            name: "Mona Lisa".to_owned(),
            email: "mona@example.com".to_owned(),
            subject: "Update the opening hours".to_owned(),
        },
    }
}

/// A GUID, as GitHub names deliveries by.
fn delivery(commit: &str) -> String {
    let part = |range| commit.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// A path as one would type it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c)) {
        format!("'{}'", text.replace('\'', r"'\''"))
    } else {
        text
    }
}
