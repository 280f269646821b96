//! The commands of the program as sections of a manual page.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// Without the commands that are not for people, which completions would offer.
pub(crate) fn visible(command: &Command) -> Command {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let about = command.get_about().cloned().unwrap_or_default();
    // Kept until the end, as clap wants it.
    let version: &'static str = command.get_version().unwrap_or_default().to_owned().leak();
    Command::new("instance-agent").version(version).about(about).subcommands(shown)
}

/// A heading for each, what it is for, and its options.
pub(crate) fn to_roff(command: &Command) -> io::Result<String> {
    let mut roff = String::from(".SH COMMANDS\n");
    for command in visible(command).get_subcommands() {
        roff += &section(command.clone())?;
    }
    Ok(roff)
}

fn section(command: Command) -> io::Result<String> {
    let heading = format!(".SS instance\\-agent {}\n", command.get_name());
    let man = Man::new(command.disable_help_flag(true));
    let description = rendered(|to| man.render_description_section(to))?;
    let options = rendered(|to| man.render_options_section(to))?;
    let extra = rendered(|to| man.render_extra_section(to))?;
    let extra = if extra.is_empty() { extra } else { format!(".PP\n{extra}") };
    Ok(heading + &description + &options + &extra)
}

/// Without the headings, which would stand above that of the command.
fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<String> {
    let mut roff = Vec::new();
    render(&mut roff)?;
    let roff = String::from_utf8(roff).map_err(io::Error::other)?;
    let preamble = [".ie", ".el", ".SH"];
    Ok(roff
        .lines()
        .filter(|line| !preamble.iter().any(|start| line.starts_with(start)))
        // A string that the preamble defines.
        .map(|line| line.replace(r"\*(Aq", r"\(aq") + "\n")
        .collect())
}
