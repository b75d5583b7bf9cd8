//! Choices: values that a configuration names by a word.

use std::fmt;

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The values in the words of the file, the default first.
            pub const CHOICES: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];

            /// The words alone, the default first.
            pub const WORDS: &'static [&'static str] = &[$($text),+];

            /// The word of the file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

choice! {
    /// How packets for the protected prefixes reach this host.
    LinkMode {
        /// A router has a route for the prefix to this host: nobody solicits its addresses.
        #[default]
        Routed = "routed",
        /// The prefix is that of the link: mtd answers neighbour solicitations for live addresses (MT-09).
        OnLink = "on-link",
        /// The prefix is that of the link, shared with other hosts and with this host's own addresses: mtd answers
        /// solicitations for its live addresses and leaves all other packets to the kernel.
        Shared = "shared",
    }
}

choice! {
    /// How packets towards the protected prefixes that are not valid are handled.
    Policy {
        /// They are dropped.
        #[default]
        Dark = "dark",
        /// They are counted, and pass to the kernel.
        Monitor = "monitor",
    }
}

choice! {
    /// How the receive program is attached to the underlay.
    XdpChoice {
        /// In the driver where it can do what the program needs, otherwise generic.
        #[default]
        Auto = "auto",
        /// In the driver or not at all.
        Native = "native",
        /// In the network stack, for any driver; slower.
        Generic = "generic",
    }
}

choice! {
    /// Whether packets of busy sessions are handed to other CPUs, to be opened there.
    SteeringChoice {
        /// Where there are other CPUs that the controller may run on.
        #[default]
        Auto = "auto",
        /// Every packet is opened on the CPU that receives it.
        Off = "off",
    }
}

choice! {
    /// Whether the key stream of busy sessions is made ahead of their packets.
    KeyStreamChoice {
        /// It is, by a thread of the controller.
        #[default]
        Auto = "auto",
        /// All of it is made in the kernel, when a packet comes.
        Off = "off",
    }
}

choice! {
    /// How inner packets are protected.
    Mode {
        /// They are encrypted and authenticated.
        #[default]
        Encrypt = "encrypt",
        /// They are authenticated, and readable on the wire.
        Authenticate = "authenticate",
    }
}

choice! {
    /// How introductions are published (requirement MT-24).
    Encoding {
        /// As mutable items of the DHT (BEP 44).
        #[default]
        Mutable = "mutable",
        /// In the ports of announced peers: for networks without mutable items, and research.
        Ports = "ports",
    }
}

choice! {
    /// Whether a stateful firewall or an address translator on this side lets in only answers.
    MiddleboxChoice {
        /// Until the peer has shown that there is none.
        #[default]
        Auto = "auto",
        /// There is one.
        On = "on",
        /// There is none.
        Off = "off",
    }
}

choice! {
    /// What is thought of the wall clock.
    ClockChoice {
        /// It is right if a time service is known to keep it right.
        #[default]
        Auto = "auto",
        /// Something else keeps it right: that of the host around a container, of a virtual machine, a chronyd that does not
        /// tell the kernel.
        Trusted = "trusted",
    }
}
