//! The two rules of an IP version.

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::IpVersion;

use super::PROTOCOL;
use crate::device::error::{Error, Result};
use crate::device::netlink::{Netlink, answer, collect};

/// Place of the rule for the main table's routes among all rules: in front of those that others add without a place of their own,
/// which get one below that of the main table (32766).
const MAIN_FIRST: u32 = 32_700;

/// A rule of mtd's: what has not the mark is looked up in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    priority: u32,
    mark: u32,
    table: u32,
    /// Routes with at most this prefix length do not count.
    suppressed: Option<u32>,
}

impl Rule {
    /// Both, in the order in which they apply.
    pub(super) fn all(number: u32) -> Vec<Self> {
        let main = RouteHeader::RT_TABLE_MAIN.into();
        vec![
            Self { priority: MAIN_FIRST, mark: number, table: main, suppressed: Some(0) },
            Self { priority: MAIN_FIRST + 1, mark: number, table: number, suppressed: None },
        ]
    }

    /// The rule of this message, if it is one like ours.
    fn read(message: &RuleMessage) -> Option<Self> {
        let attributes = &message.attributes;
        if message.header.action != RuleAction::ToTable
            || !message.header.flags.contains(RuleFlags::Invert)
            || message.header.src_len != 0
            || message.header.dst_len != 0
            || !attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
        {
            return None;
        }
        let mut rule = Self { priority: 0, mark: mark(message)?, table: table(message), suppressed: None };
        for attribute in attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                    rule.suppressed = Some(*length);
                }
                _ => {}
            }
        }
        Some(rule)
    }

    fn write(self, family: AddressFamily, message: &mut RuleMessage) {
        message.header.family = family;
        message.header.action = RuleAction::ToTable;
        message.header.flags = RuleFlags::Invert;
        message.header.table = RouteHeader::RT_TABLE_UNSPEC;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(u32::MAX),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(PROTOCOL),
        ];
        message.attributes.extend(self.suppressed.map(RuleAttribute::SuppressPrefixLen));
    }
}

/// Brings mtd's rules with this mark to those `wanted`. Notes what was changed.
pub(super) async fn sync(
    netlink: &Netlink,
    family: AddressFamily,
    number: u32,
    wanted: &[Rule],
    changes: &mut Vec<String>,
) -> Result<()> {
    let mut there = Vec::new();
    for message in list(netlink, family).await? {
        if !is_own(&message) || mark(&message) != Some(number) {
            continue;
        }
        let rule = Rule::read(&message).filter(|rule| wanted.contains(rule) && !there.contains(rule));
        if let Some(rule) = rule {
            there.push(rule);
        } else {
            remove(netlink, message).await?;
            changes.push(format!("a rule of {} for the mark {number:#x} removed", version(family)));
        }
    }
    for rule in wanted.iter().filter(|rule| !there.contains(rule)) {
        let mut request = netlink.handle.rule().add().v4();
        rule.write(family, request.message_mut());
        match answer(request.execute()).await {
            Ok(()) => {
                changes.push(format!("a rule of {} for the mark {number:#x} set", version(family)));
            }
            // Somebody else has made the same one.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(cause) => {
                let action = format!("add a routing rule of {} for the mark {number:#x}", version(family));
                return Err(Error::Netlink { action, cause });
            }
        }
    }
    Ok(())
}

/// The numbers that rules have as their marks or tables, mtd's own rules included.
pub(super) async fn numbers(netlink: &Netlink, family: AddressFamily) -> Result<Vec<u32>> {
    let rules = list(netlink, family).await?;
    Ok(rules.iter().flat_map(|rule| [mark(rule).unwrap_or_default(), table(rule)]).collect())
}

/// The marks of mtd's own rules.
pub(super) async fn own_numbers(netlink: &Netlink, family: AddressFamily) -> Result<Vec<u32>> {
    let rules = list(netlink, family).await?;
    Ok(rules.iter().filter(|rule| is_own(rule)).filter_map(mark).collect())
}

async fn list(netlink: &Netlink, family: AddressFamily) -> Result<Vec<RuleMessage>> {
    let version = if family == AddressFamily::Inet { IpVersion::V4 } else { IpVersion::V6 };
    match collect("list the routing rules", netlink.handle.rule().get(version).execute()).await {
        // A kernel without policy routing has none.
        Err(Error::Netlink { cause, .. }) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        listed => listed,
    }
}

async fn remove(netlink: &Netlink, message: RuleMessage) -> Result<()> {
    match answer(netlink.handle.rule().del(message).execute()).await {
        Err(cause) if cause.raw_os_error() != Some(libc::ENOENT) => {
            Err(Error::Netlink { action: "remove a routing rule".to_owned(), cause })
        }
        _ => Ok(()),
    }
}

fn is_own(message: &RuleMessage) -> bool {
    message.attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
}

fn mark(message: &RuleMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::FwMark(mark) => Some(*mark),
        _ => None,
    })
}

fn table(message: &RuleMessage) -> u32 {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| message.header.table.into())
}

const fn version(family: AddressFamily) -> &'static str {
    if matches!(family, AddressFamily::Inet) { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_others_rules_are_not() {
        for rule in Rule::all(28_020) {
            let mut message = RuleMessage::default();
            rule.write(AddressFamily::Inet6, &mut message);
            assert_eq!(Rule::read(&message), Some(rule));
            assert!(is_own(&message) && mark(&message) == Some(28_020));
            // As the kernel tells it where nothing is suppressed.
            message.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
            assert_eq!(Rule::read(&message), Some(rule));
            message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
            assert!(Rule::read(&message).is_none() && !is_own(&message));
        }
    }

    #[test]
    fn the_main_tables_routes_come_first() {
        let [main, own] = <[Rule; 2]>::try_from(Rule::all(28_020)).unwrap();
        assert!(main.priority < own.priority && own.priority < 32_766);
        assert_eq!((main.table, main.suppressed, own.table, own.suppressed), (254, Some(0), 28_020, None));
    }
}
