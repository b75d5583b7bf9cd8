use std::net::Ipv4Addr;

use mtd::keys::SecretKey;
use mtd::proto::rendezvous::Descriptor;
use mtd::rendezvous::{DhtConfig, Encoding, Item, MainlineStore, Store as _, StoreError};

use crate::dht::PrivateDht;
use crate::link::{Veth, Via};
use crate::netns::Netns;
use crate::require_root;

#[test]
fn a_private_dht_in_one_namespace_is_used_from_another() {
    require_root();
    let (network, host) = (Netns::new("dht").unwrap(), Netns::new("host").unwrap());
    let veth = Veth::connect((&network, "net"), (&host, "host"), 1500).unwrap();
    let router = Ipv4Addr::new(198, 19, 0, 1);
    for (netns, ifname, address) in
        [(&network, &veth.left, "198.19.0.1/30"), (&host, &veth.right, "198.19.0.2/30")]
    {
        netns.add_address(ifname, address.parse().unwrap()).unwrap();
        netns.set_up(ifname).unwrap();
    }
    host.add_route("198.18.0.0/16".parse().unwrap(), Via::Gateway(router.into())).unwrap();
    let mut dht = PrivateDht::in_namespace(&network, Ipv4Addr::new(198, 18, 0, 1), 20).unwrap();
    assert_eq!((dht.living(), dht.bootstrap()[19].as_str()), (20, "198.18.0.20:6881"));

    let bootstrap = dht.bootstrap();
    let publish = || {
        let config = DhtConfig { bootstrap: bootstrap.clone(), ..DhtConfig::default() };
        let item = Item::raw(Descriptor([1; 20]), &SecretKey::from_bytes([2; 32]), b"value".to_vec(), 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(MainlineStore::new(config).publish(item, Encoding::Item))
    };
    let stored = host.enter(publish).unwrap().unwrap();
    assert!(stored.copies.is_some_and(|copies| copies >= 15), "{stored:?}");
    dht.kill(20).unwrap();
    assert_eq!(host.enter(publish).unwrap(), Err(StoreError::Dead));
}
