//! Scenarios with real controllers, packets and kernels, in network namespaces.

mod adversary;
mod bench;
mod demo;
mod device;
mod guard;
mod lifecycle;
mod many;
mod networks;
mod rendezvous;
mod sessions;
mod world;
