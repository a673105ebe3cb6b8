//! IPv4 networks, as far as a scratch VPC must know whether two of them meet.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network in CIDR notation, with no bit set behind its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: u32,
    length: u32,
}

impl Cidr {
    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let length = self.length.min(other.length);
        mask(length) & self.first == mask(length) & other.first
    }
    /// Bits of the network's part.
    #[must_use]
    pub fn length(self) -> u32 {
        self.length
    }
    /// Its `number`th address.
    #[must_use]
    pub fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.first.wrapping_add(number))
    }
}

fn mask(length: u32) -> u32 {
    u32::MAX.checked_shl(32 - length).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an IPv4 network; write it like \"10.99.0.0/24\"");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let plain = length.bytes().all(|c| c.is_ascii_digit())
            && (length == "0" || !length.starts_with('0'));
        let length: u32 = if plain { length } else { "" }
            .parse()
            .ok()
            .filter(|length| *length <= 32)
            .ok_or_else(bad)?;
        let first = u32::from(address);
        if first & mask(length) == first {
            Ok(Self { first, length })
        } else {
            Err(format!("{text:?} has bits behind its length"))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.first), self.length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn a_length_has_one_spelling() {
        for text in [
            "10.0.0.0/+24",
            "10.0.0.0/024",
            "10.0.0.0/ 24",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/00",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().is_ok());
    }

    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_meet_where_one_holds_the_other() {
        for (one, other, meet) in [
            ("10.0.0.0/16", "10.0.3.0/24", true),
            ("10.0.3.0/24", "10.0.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "192.168.1.0/24", true),
            ("10.99.0.0/24", "10.99.0.0/24", true),
            ("10.99.0.1/32", "10.99.0.0/32", false),
        ] {
            assert_eq!(cidr(one).overlaps(cidr(other)), meet, "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "fd00::/8", "", "10.0.0/24"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!(cidr("10.99.0.0/24").to_string(), "10.99.0.0/24");
        assert_eq!(cidr("10.0.5.0/24").address(7).to_string(), "10.0.5.7");
    }

    #[test]
    fn a_network_reads_back_as_written_and_knows_its_length() {
        for (text, length) in [
            ("0.0.0.0/0", 0),
            ("128.0.0.0/1", 1),
            ("10.0.0.0/8", 8),
            ("10.99.4.0/22", 22),
            ("10.99.0.7/32", 32),
        ] {
            assert_eq!(cidr(text).to_string(), text);
            assert_eq!(cidr(text).length(), length, "{text}");
        }
        assert_eq!(cidr("10.0.5.0/24").address(0).to_string(), "10.0.5.0");
        assert_eq!(
            cidr("10.0.4.0/22").address(258).to_string(),
            "10.0.5.2",
            "over the end of a byte"
        );
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (text, word) in [
            ("10.0.0.1/24", "bits behind its length"),
            ("10.0.0.1/31", "bits behind its length"),
            ("0.0.0.1/0", "bits behind its length"),
            ("10.0.0.0/33", "write it like"),
            ("10.0.0.0/", "write it like"),
            ("10.0.0.0/-1", "write it like"),
            ("10.0.0.0", "write it like"),
            ("10.0.0.0/8/8", "write it like"),
        ] {
            let why = text.parse::<Cidr>().unwrap_err();
            assert!(why.contains(word) && why.contains(text), "{text}: {why}");
        }
    }

    proptest! {
        /// Against a comparison of every address.
        #[test]
        fn two_networks_overlap_exactly_when_they_share_an_address(
            (a, one) in (0..64u32, 26..=32u32), (b, other) in (0..64u32, 26..=32u32),
        ) {
            let network = |address: u32, length: u32| {
                let size = 1 << (32 - length);
                let first = 0x0a63_0000 + address / size * size;
                (cidr(&format!("{}/{length}", Ipv4Addr::from(first))), first..first + size)
            };
            let ((one, addresses), (other, others)) = (network(a, one), network(b, other));
            let shared = addresses.clone().any(|address| others.contains(&address));
            prop_assert_eq!(one.overlaps(other), shared, "{} {}", one, other);
            prop_assert_eq!(other.overlaps(one), shared);
            prop_assert_eq!(one.address(0), Ipv4Addr::from(addresses.start));
        }
    }
}
