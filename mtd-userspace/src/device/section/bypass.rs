//! The settings of routes into the tunnel that cover what mtd's own packets need: mark, routing table, kill switch.

use crate::model::{Fault, FwMark, is_everything, shown};
use crate::schema::{Facts, Key, Kind, Located, Part, Problems, Section};

/// Marks that packets into the tunnel device have for other reasons: `mtd_common::packet::inner`, and packets that are cut.
const TAKEN: [std::ops::RangeInclusive<u32>; 2] = [0x6d74_6400..=0x6d74_64ff, 0x6d75_0000..=0x6d75_ffff];

/// Numbers of the kernel's own routing tables.
const KERNEL_TABLES: std::ops::RangeInclusive<u32> = 252..=255;

/// The top-level keys about everything through the tunnel.
pub const BYPASS_KEYS: &[Key] = &[
    Key::preset(
        "fwmark",
        Kind::Text(
            "\"auto\", \"off\", or a number as in `ip rule`, such as \"0xca6c\" (or without quotes, 51820)",
        ),
        r#""auto""#,
        "Firewall mark of mtd's own packets, and number of the routing table for those networks of allowed_ips that cover what \
         these packets need: everything (\"::/0\", \"0.0.0.0/0\", or their halves), the own prefix, a peer's prefix. Rules send \
         what has not this mark by that table into the tunnel device, behind the routes of the main table that are no default \
         routes; what has it goes as it would without mtd. \"auto\": a number that nobody else uses, where it is needed. \
         \"off\": no mark, and all routes in the main table.",
    ),
    Key::preset(
        "kill_switch",
        Kind::Boolean,
        "false",
        "Nothing leaves this host past the tunnel, whether it stands or not, in IPv4 and IPv6, except mtd's own packets and what \
         the main table has routes for that are no default routes (the networks of its interfaces). It holds while the \
         controller runs, and after its crash; a clean stop and `mtd detach` end it. Only where allowed_ips names everything.",
    ),
];

/// The settings in the file.
#[derive(Debug)]
pub struct Bypass {
    fwmark: Option<Located<FwMark>>,
    kill_switch: Option<Located<bool>>,
}

impl Bypass {
    /// Reads the root.
    pub fn read(root: &Section<'_, '_>, problems: &mut Problems<'_>) -> Self {
        Self {
            fwmark: root.text_or_number("fwmark", problems, fwmark),
            kill_switch: root.boolean("kill_switch", problems),
        }
    }

    /// The mark of mtd's own packets.
    pub fn fwmark(&self) -> FwMark {
        self.fwmark.as_ref().map(|mark| mark.value).unwrap_or_default()
    }

    /// Whether nothing may leave past the tunnel.
    pub fn kill_switch(&self) -> bool {
        self.kill_switch.as_ref().is_some_and(|switch| switch.value)
    }
}

impl Part for Bypass {
    fn check(&self, facts: &Facts, problems: &mut Problems<'_>) {
        let Some(switch) = self.kill_switch.as_ref().filter(|switch| switch.value) else { return };
        if !facts.networks.iter().any(|(_, net)| is_everything(&net.value)) {
            let what = "no allowed_ips sends everything through the tunnel, so this would cut the host off";
            let remedy = "add allowed_ips = [\"::/0\", \"0.0.0.0/0\"] to a [[server]] or [[peer]], or leave this line out";
            problems.add(switch.at, "kill_switch", Fault::new(what, remedy));
        }
        if self.fwmark() == FwMark::Off {
            let what = "mtd's own packets would have no way out, since fwmark is \"off\"";
            problems.add(switch.at, "kill_switch", Fault::new(what, "leave the line with fwmark out"));
        }
    }
}

/// A mark that is a number of a routing table at the same time.
fn fwmark(text: &str) -> Result<FwMark, Fault> {
    match text {
        "auto" => return Ok(FwMark::Auto),
        "off" => return Ok(FwMark::Off),
        _ => {}
    }
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let remedy = "write \"auto\", \"off\", or a number of your own such as 51820 or \"0xca6c\"";
    let number = number.map_err(|_| Fault::new(format!("\"{}\" is no mark", shown(text)), remedy))?;
    if number == 0 || KERNEL_TABLES.contains(&number) {
        return Err(Fault::new(format!("{number} is a routing table of the kernel's own"), remedy));
    }
    if TAKEN.iter().any(|range| range.contains(&number)) {
        return Err(Fault::new(format!("{number} is a mark that mtd uses for something else"), remedy));
    }
    Ok(FwMark::Number(number))
}

#[cfg(test)]
mod tests {
    use mtd_common::packet::inner::{CONTROL_MARK, OPENER_MARK, PROBE_MARK};

    use super::*;

    #[test]
    fn marks_are_numbers_as_in_ip_rule() {
        for (text, mark) in [
            ("auto", FwMark::Auto),
            ("off", FwMark::Off),
            ("51820", FwMark::Number(51_820)),
            ("0xca6c", FwMark::Number(0xca6c)),
            ("4294967295", FwMark::Number(u32::MAX)),
        ] {
            assert_eq!(fwmark(text).unwrap(), mark, "{text}");
        }
        for text in ["", "0", "0x0", "254", "-1", "4294967296", "on", "0x", "1/2"] {
            assert!(fwmark(text).is_err(), "{text}");
        }
        for mark in [CONTROL_MARK, OPENER_MARK, PROBE_MARK, 0x6d75_0008] {
            assert!(fwmark(&mark.to_string()).is_err(), "{mark:#x}");
        }
    }
}
