//! Openers and questions, moment by moment.

use super::*;

const MILLISECOND: u64 = 1_000_000;
const FIRST: u64 = 1_000;

fn at(slot: u64, elapsed: u64, period: u64) -> Moment {
    Moment { slot, elapsed, period, boot: BootNs((slot - FIRST + 1) * period + elapsed) }
}

/// The openers of so many slots, as (slot, ms), looked at every 100 ms.
fn openers(opener: &mut Opener, period: u64, slots: u64, heard: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
    let mut sent = Vec::new();
    for slot in FIRST..FIRST + slots {
        for elapsed in (37 * MILLISECOND..period).step_by(100_000_000) {
            if let Some(message) = opener.next(true, at(slot, elapsed, period)) {
                let heard = opener.heard == slot;
                assert_eq!(message, Control::Opener { where_heard: true, heard });
                sent.push((slot - FIRST, elapsed / MILLISECOND));
            }
            if heard(slot - FIRST) {
                opener.handle_heard(slot);
            }
        }
    }
    sent
}

#[test]
fn each_slot_is_opened_and_opened_again_if_nobody_is_heard() {
    let sent = openers(&mut Opener::default(), 3 * SECOND, 3, |slot| slot == 1);
    assert_eq!(sent, [(0, 37), (0, 1_537), (1, 37), (2, 37), (2, 1_537)]);
    let sent = openers(&mut Opener::default(), 30 * SECOND, 2, |_| false);
    assert_eq!(sent, [(0, 37), (0, 5_037), (1, 37), (1, 5_037)]);
}

#[test]
fn a_long_slot_is_kept_open() {
    let sent = openers(&mut Opener::default(), 90 * SECOND, 1, |_| false);
    assert_eq!(sent, [(0, 37), (0, 5_037), (0, 25_037), (0, 45_037), (0, 65_037), (0, 85_037)]);
    let sent = openers(&mut Opener::default(), 90 * SECOND, 1, |_| true);
    assert_eq!(sent, [(0, 37), (0, 20_037), (0, 40_037), (0, 60_037), (0, 80_037)]);
}

#[test]
fn the_peer_is_told_once_that_it_can_send_as_it_likes() {
    let mut opener = Opener::default();
    assert!(opener.next(true, at(FIRST, 0, SECOND)).is_some());
    let plain = Some(Control::Opener { where_heard: false, heard: false });
    assert_eq!(opener.next(false, at(FIRST, 1, SECOND)), plain);
    assert_eq!(opener.next(false, at(FIRST + 5, 0, SECOND)), None);
    opener.tell_again();
    assert_eq!(opener.next(false, at(FIRST + 6, 0, SECOND)), plain);
    assert!(opener.next(true, at(FIRST + 6, 1, SECOND)).is_some(), "a middlebox has come");
}

/// Both ends open: the first opener of the faster one was held back on the other side.
#[test]
fn an_opener_that_came_too_early_is_sent_again_when_the_other_end_opens() {
    let moment = |ms: u64| at(FIRST, ms * MILLISECOND, SECOND);
    let mut opener = Opener::default();
    assert!(opener.next(true, moment(0)).is_some());
    opener.handle_heard(FIRST);
    opener.handle_opener(FIRST as u32 - 1, false, moment(20));
    assert_eq!(opener.next(true, moment(20)), None, "of the slot before");
    opener.handle_opener(FIRST as u32, false, moment(30));
    assert_eq!(opener.next(true, moment(30)), Some(Control::Opener { where_heard: true, heard: true }));
    opener.handle_opener(FIRST as u32, false, moment(40));
    assert_eq!(opener.next(true, moment(40)), None, "two in a slot at most");
    let mut opener = Opener::default();
    assert!(opener.next(true, moment(0)).is_some());
    opener.handle_heard(FIRST);
    opener.handle_opener(FIRST as u32, true, moment(30));
    assert_eq!(opener.next(true, moment(30)), None, "it has heard this end");
}

/// Asks in each slot, and lets `answer` answer with the slots of the probes; returns when questions were asked.
fn ask(middlebox: &mut Middlebox, slots: u64, answer: impl Fn(u64) -> Vec<u64>) -> Vec<u64> {
    let mut asked = Vec::new();
    for slot in FIRST..FIRST + slots {
        for elapsed in (37 * MILLISECOND..SECOND).step_by(100_000_000) {
            let moment = at(slot, elapsed, SECOND);
            if let Some(Control::ProbeRequest { stamp }) = middlebox.next(true, None, moment) {
                asked.push(slot - FIRST);
                for probe in answer(slot) {
                    middlebox.handle_probe(stamp, probe as u32, &Opener::default(), moment);
                }
            }
        }
    }
    asked
}

#[test]
fn a_probe_from_the_next_slot_proves_that_there_is_no_middlebox() {
    let mut middlebox = Middlebox::new(MiddleboxChoice::Auto);
    assert!(middlebox.wants_openers());
    let asked = ask(&mut middlebox, 150, |slot| vec![slot, slot + 1]);
    assert_eq!((middlebox.finding(), middlebox.wants_openers()), (Finding::Absent, false));
    assert_eq!(asked, [0, 60, 120], "once a minute");
}

#[test]
fn a_middlebox_is_found_and_missed_again() {
    let mut middlebox = Middlebox::new(MiddleboxChoice::Auto);
    let asked = ask(&mut middlebox, 80, |slot| vec![slot]);
    assert_eq!((middlebox.finding(), middlebox.wants_openers()), (Finding::Found, true));
    assert_eq!(asked, [0, 1, 2, 63, 64, 65]);
    let mut middlebox = Middlebox::new(MiddleboxChoice::Auto);
    ask(&mut middlebox, 1, |slot| vec![slot + 1]);
    assert_eq!(middlebox.finding(), Finding::Absent);
    let moment = |slot| at(FIRST + slot, SECOND / 2, SECOND);
    assert!(middlebox.next(true, None, moment(100)).is_some());
    assert_eq!(middlebox.finding(), Finding::Absent, "a question alone changes nothing");
    assert!(middlebox.next(true, None, moment(101)).is_some());
    assert!(middlebox.wants_openers(), "to be safe until the next answer");
}

#[test]
fn a_peer_that_does_not_answer_proves_nothing() {
    let mut middlebox = Middlebox::new(MiddleboxChoice::Auto);
    assert_eq!(ask(&mut middlebox, 80, |_| Vec::new()), [0, 1, 2, 63, 64, 65]);
    assert_eq!((middlebox.finding(), middlebox.wants_openers()), (Finding::Assumed, true));
    let moment = |slot| at(FIRST + slot, SECOND / 2, SECOND);
    assert_eq!(middlebox.next(false, None, moment(81)), None, "not before a minute is over");
    assert!(middlebox.next(true, None, moment(82)).is_some(), "it is there now");
}

#[test]
fn probes_in_slots_that_were_used_and_of_other_questions_prove_nothing() {
    let moment = at(FIRST, SECOND / 2, SECOND);
    let (mut middlebox, mut opener) = (Middlebox::new(MiddleboxChoice::Auto), Opener::default());
    let Some(Control::ProbeRequest { stamp }) = middlebox.next(true, None, moment) else { panic!() };
    assert!(!middlebox.handle_probe(stamp + 1, FIRST as u32 + 1, &opener, moment));
    assert!(!middlebox.handle_probe(stamp, FIRST as u32, &opener, moment), "a slot that is open");
    opener.handle_probed(moment);
    assert!(!middlebox.handle_probe(stamp, FIRST as u32 + 1, &opener, moment), "our own probe has opened it");
    assert!(middlebox.handle_probe(stamp, FIRST as u32 + 2, &opener, moment));
    // The clock went back over an edge.
    let (mut middlebox, mut opener) = (Middlebox::new(MiddleboxChoice::Auto), Opener::default());
    opener.next(true, at(FIRST + 1, 0, SECOND));
    let Some(Control::ProbeRequest { stamp }) = middlebox.next(true, None, moment) else { panic!() };
    assert!(!middlebox.handle_probe(stamp, FIRST as u32 + 1, &opener, moment));
}

#[test]
fn where_both_ends_ask_they_take_turns() {
    for even in [true, false] {
        let mut middlebox = Middlebox::new(MiddleboxChoice::Auto);
        let slots = (FIRST..FIRST + 4).filter(|slot| {
            middlebox.question = None;
            middlebox.next(true, Some(even), at(*slot, SECOND / 2, SECOND)).is_some()
        });
        assert!(slots.eq(if even { [FIRST, FIRST + 2] } else { [FIRST + 1, FIRST + 3] }));
    }
}

#[test]
fn what_is_configured_is_not_questioned() {
    for (choice, wants) in [(MiddleboxChoice::On, true), (MiddleboxChoice::Off, false)] {
        let mut middlebox = Middlebox::new(choice);
        assert_eq!(middlebox.wants_openers(), wants);
        assert!(ask(&mut middlebox, 70, |slot| vec![slot + 1]).is_empty());
        assert_eq!(middlebox.wants_openers(), wants);
    }
}
