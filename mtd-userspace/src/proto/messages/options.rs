//! Options behind the fixed part of a handshake's payload: `type (2) ‖ length (2) ‖ value`, then zeros up to the size that
//! all payloads have.

/// Bit of an option's type: who does not know the option must refuse the message. Without it, the option is skipped.
pub(super) const CRITICAL: u16 = 0x8000;

/// Type of [`Capabilities`].
pub(super) const CAPABILITIES: u16 = 1;
/// Type of a controller's [`Instance`].
pub(super) const INSTANCE: u16 = 2;
/// Type of the [`Token`] of an earlier refusal.
pub(super) const TOKEN: u16 = 3;
/// Type of a refusal, which comes instead of the terms of a session. Types up to 7 are set apart for communities.
pub(super) const DENIAL: u16 = 4;

/// A number that a controller draws at its start, so that two of them with the same key can be told apart: a start never
/// brings an earlier number back.
pub type Instance = [u8; 16];

/// What a server gives to a client that it refuses. Who sends it back has been alive since.
pub type Token = [u8; 16];

/// What an end can do, one bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Bits and their names.
    const NAMES: [(u64, &'static str); 4] =
        [(1, "term"), (2, "middlebox"), (4, "path-probes"), (8, "instance")];

    /// Those of this program.
    pub const OWN: Self = Self(0b1111);

    /// The names of the bits that are set; of bits that this version does not know, their numbers.
    pub fn names(self) -> Vec<String> {
        (0..u64::BITS)
            .filter(|bit| self.0 >> bit & 1 == 1)
            .map(|bit| {
                let known = Self::NAMES.iter().find(|(value, _)| *value == 1 << bit);
                known.map_or_else(|| format!("bit-{bit}"), |(_, name)| (*name).to_owned())
            })
            .collect()
    }
}

/// The message is not sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Adds an option.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

/// The options that were read, as far as this version knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options<'a> {
    pub(super) capabilities: Option<Capabilities>,
    pub(super) instance: Option<Instance>,
    pub(super) token: Option<Token>,
    pub(super) denial: Option<&'a [u8]>,
    /// The first one that had to be known and is not, without [`CRITICAL`].
    pub(super) unknown: Option<u16>,
}

impl<'a> Options<'a> {
    /// Reads all options. Behind the last one, there is nothing but zeros.
    pub(super) fn read(mut bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        while let Some((head, rest)) = bytes.split_first_chunk::<4>() {
            let [kind, length] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
            if kind & !CRITICAL == 0 {
                break;
            }
            let (value, rest) = rest.split_at_checked(length.into()).ok_or(Malformed)?;
            found.take(kind, value)?;
            bytes = rest;
        }
        if bytes.iter().all(|byte| *byte == 0) { Ok(found) } else { Err(Malformed) }
    }

    fn take(&mut self, kind: u16, value: &'a [u8]) -> Result<(), Malformed> {
        match kind & !CRITICAL {
            CAPABILITIES => {
                once(&mut self.capabilities, array(value)?, |bits| Capabilities(u64::from_be_bytes(bits)))
            }
            INSTANCE => once(&mut self.instance, array(value)?, |bytes| bytes),
            TOKEN => once(&mut self.token, array(value)?, |bytes| bytes),
            DENIAL => once(&mut self.denial, value, |value| value),
            other => {
                if kind & CRITICAL != 0 {
                    self.unknown.get_or_insert(other);
                }
                Ok(())
            }
        }
    }
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed)
}

/// An option must not occur twice.
fn once<V, T>(place: &mut Option<T>, value: V, make: impl FnOnce(V) -> T) -> Result<(), Malformed> {
    if place.is_some() {
        return Err(Malformed);
    }
    *place = Some(make(value));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, kind, value);
        out
    }

    #[test]
    fn options_are_taken_skipped_or_refused() {
        let known =
            [option(INSTANCE, &[7; 16]), option(CAPABILITIES | CRITICAL, &5_u64.to_be_bytes())].concat();
        let expected =
            Options { instance: Some([7; 16]), capabilities: Some(Capabilities(5)), ..Options::default() };
        for padding in [0, 1, 3, 4, 99] {
            assert_eq!(Options::read(&[&known[..], &vec![0; padding]].concat()), Ok(expected), "{padding}");
        }
        let skipped = [option(99, b"of a later version"), known.clone(), option(0x7fff, &[])].concat();
        assert_eq!(Options::read(&skipped), Ok(expected));
        let unknown = Some(77);
        let refused = [option(CRITICAL + 77, &[1]), known.clone(), option(CRITICAL + 78, &[])].concat();
        assert_eq!(Options::read(&refused), Ok(Options { unknown, ..expected }));
        for bad in [
            [known.clone(), option(INSTANCE, &[7; 16])].concat(),
            option(INSTANCE, &[7; 15]),
            option(CAPABILITIES, &[7; 9]),
            option(99, b"abc")[..6].to_vec(),
            [known.clone(), vec![0, 1]].concat(),
            [known.clone(), vec![0, 0, 0, 0, 0, 9]].concat(),
            option(CRITICAL, &[]),
        ] {
            assert_eq!(Options::read(&bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(Capabilities::OWN.names(), ["term", "middlebox", "path-probes", "instance"]);
        assert_eq!(Capabilities((1 << 63) + 2).names(), ["middlebox", "bit-63"]);
    }
}
