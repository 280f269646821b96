//! Is this an EC2 instance, and which? Answered from firmware tables alone, so that no other host waits for anything.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// The id of an instance, such as `i-0123456789abcdef0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceId(String);

impl InstanceId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("i-").unwrap_or_default();
        let hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if (8..=32).contains(&digits.len()) && hex {
            Ok(Self(text.to_owned()))
        } else {
            Err("is no instance id, which is i- and 8 or 17 hexadecimal digits")
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// An EC2 instance.
    pub is_ec2: bool,
    /// Its id, where the firmware knows it, as on Nitro instances.
    pub instance_id: Option<InstanceId>,
}

impl Platform {
    /// Looks below `root`, which is `/` but in tests.
    ///
    /// These are the identifiers of AWS's "Detect whether a host is an EC2 instance". A UUID that begins with `ec2` is
    /// believed only where there is no vendor to ask (paravirtual Xen): one in 4096 of all others does too.
    pub fn detect(root: &Path) -> Self {
        let dmi = root.join("sys/class/dmi/id");
        let says = |name: &str| fs::read_to_string(dmi.join(name)).unwrap_or_default().trim().to_lowercase();
        let is_ec2 = says("sys_vendor") == "amazon ec2"
            || says("bios_vendor") == "amazon ec2"
            || says("bios_version").ends_with(".amazon")
            || (!dmi.exists() && xen_uuid(root).starts_with("ec2"));
        let instance_id = is_ec2.then(|| says("board_asset_tag").parse().ok()).flatten();
        Self { is_ec2, instance_id }
    }
}

fn xen_uuid(root: &Path) -> String {
    fs::read_to_string(root.join("sys/hypervisor/uuid")).unwrap_or_default().to_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn detected(files: &[(&str, &str)]) -> Platform {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join("sys").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Platform::detect(root.path())
    }

    #[test]
    fn nitro_instances_name_vendor_and_id() {
        let nitro = detected(&[
            ("class/dmi/id/sys_vendor", "Amazon EC2\n"),
            ("class/dmi/id/board_asset_tag", "i-0123456789abcdef0\n"),
        ]);
        let instance_id = Some("i-0123456789abcdef0".parse().unwrap());
        assert_eq!(nitro, Platform { is_ec2: true, instance_id });
    }

    #[test]
    fn xen_instances_have_their_own_signs_and_no_id() {
        let ec2 = Platform { is_ec2: true, instance_id: None };
        assert_eq!(detected(&[("class/dmi/id/bios_version", "4.11.amazon\n")]), ec2);
        assert_eq!(detected(&[("hypervisor/uuid", "EC2e1916-9099-7caf-fd21-012345abcdef\n")]), ec2);
        let odd =
            [("class/dmi/id/bios_vendor", "Amazon EC2"), ("class/dmi/id/board_asset_tag", "Not Specified")];
        assert_eq!(detected(&odd), ec2);
    }

    #[test]
    fn other_hosts_are_no_instances() {
        for files in [
            &[][..],
            &[("class/dmi/id/sys_vendor", "QEMU"), ("class/dmi/id/board_asset_tag", "i-0123456789abcdef0")],
            &[("class/dmi/id/sys_vendor", "Dell Inc."), ("hypervisor/uuid", "ec2e1916-9099")],
            &[("hypervisor/uuid", "a1b2c3d4")],
        ] {
            assert_eq!(detected(files), Platform::default(), "{files:?}");
        }
    }

    #[test]
    fn instance_ids_are_hexadecimal() {
        for good in ["i-0123456789abcdef0", "i-1a2b3c4d"] {
            assert_eq!(good.parse::<InstanceId>().unwrap().as_str(), good);
        }
        for bad in ["", "i-", "i-123", "i-0123456789ABCDEF0", "x-1a2b3c4d", "i-1a2b3c4d\n", "i-1a2b3c4/"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }
}
