//! What validation needs to know of the host it runs on.

use std::fs;
use std::path::Path;

use ring::hmac;

use crate::ec2::{InstanceId, Platform};

/// Fixed for this program, so that the id derived from a machine's id says nothing about that id (machine-id(5)).
const APPLICATION_ID: [u8; 16] =
    [0x1d, 0x3f, 0x52, 0xc0, 0x8a, 0x7e, 0x4b, 0x6e, 0x9b, 0x06, 0x5d, 0x0a, 0xe7, 0x43, 0x21, 0x9c];

/// Facts about this host.
#[derive(Debug, Clone)]
pub struct Host {
    /// What tells this host from all others, where it is no EC2 instance.
    pub machine: String,
    /// Whether it is an EC2 instance, and which.
    pub platform: Platform,
    /// The units that the agent itself may be running as: no app may restart them.
    pub own_units: Vec<String>,
}

impl Host {
    /// Looks at the running system.
    pub fn detect() -> Self {
        let machine_id =
            fs::read_to_string("/etc/machine-id").ok().and_then(|text| application_id(text.trim()));
        let machine = machine_id.or_else(host_name).unwrap_or_else(|| "unknown".to_owned());
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut own_units = vec!["instance-agent".to_owned()];
        own_units.extend(own_unit(&cgroup));
        Self { machine, platform: Platform::detect(Path::new("/")), own_units }
    }

    /// Part of the default client id. `None`: an EC2 instance whose id is not known. Another id would not do, since
    /// what is queued at the broker would be lost when the right one is known at the next start.
    pub(super) fn id(&self) -> Option<&str> {
        if self.platform.is_ec2 {
            self.platform.instance_id.as_ref().map(InstanceId::as_str)
        } else {
            Some(&self.machine)
        }
    }
}

/// The machine's id, hashed for this application as `sd_id128_get_machine_app_specific` does: HMAC-SHA256 of the
/// application's id under the machine's, the first 128 bits, marked as a version 4 UUID.
fn application_id(machine_id: &str) -> Option<String> {
    let key = u128::from_str_radix(machine_id, 16).ok().filter(|id| *id != 0 && machine_id.len() == 32)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key.to_be_bytes());
    let tag = hmac::sign(&key, &APPLICATION_ID);
    let mut id: [u8; 16] = tag.as_ref().get(..16)?.try_into().ok()?;
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    Some(format!("{:032x}", u128::from_be_bytes(id)))
}

fn host_name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The service unit that systemd put this process in, from `/proc/self/cgroup`.
fn own_unit(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let unit = line.rsplit('/').next()?;
        unit.strip_suffix(".service").map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_id_is_hashed_as_systemd_does() {
        // What `systemd-id128 machine-id --app-specific=1d3f52c08a7e4b6e9b065d0ae743219c` prints on such a machine.
        let id = application_id("0123456789abcdef0123456789abcdef");
        assert_eq!(id.as_deref(), Some("09e7f136e2ee49e8ba5ab605eeb10e1a"));
        assert_eq!(application_id("uninitialized"), None);
        assert_eq!(application_id(&"0".repeat(32)), None);
    }

    #[test]
    fn the_own_unit_is_the_last_part_of_the_cgroup() {
        assert_eq!(own_unit("0::/system.slice/agent-2.service\n"), Some("agent-2".to_owned()));
        assert_eq!(own_unit("1:name=systemd:/user.slice/session-1.scope\n0::/user.slice\n"), None);
    }
}
