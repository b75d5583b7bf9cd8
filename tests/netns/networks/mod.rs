//! Networks as homes, offices, clouds and campuses have them: routers with stateful firewalls and translation, switches that
//! snoop, addresses that come and go, paths that lose long packets. Every scenario here failed before what it shows was built.

mod addresses;
mod boot;
mod dht;
mod ends;
mod everything;
mod firewall;
mod links;
mod manager;
mod nat;
mod path_mtu;
mod stack;
mod twins;
