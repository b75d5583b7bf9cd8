#!/usr/bin/env python3
"""Makes addresses.json: derivation vectors (MT-01, MT-02, MT-06), from hashlib and ipaddress alone.

Written apart from the Rust code, so that the file is a second opinion and not a copy of it.
"""
import hashlib
import ipaddress
import json
import pathlib


def end(prefix, seed, key, slot, candidate=0):
    network = ipaddress.IPv6Network(prefix)
    extra = bytes([candidate]) if candidate else b""
    digest = hashlib.sha256(seed + key + slot.to_bytes(8, "big") + extra).digest()
    host_bits = 128 - network.prefixlen
    iid = int.from_bytes(digest[:8], "big") >> (64 - host_bits)
    port = 1024 + (int.from_bytes(digest[8:12], "big") * 64512 >> 32)
    return {"address": str(network.network_address + iid), "port": port}


def main():
    key = bytes(range(32))
    first, second = bytes.fromhex("0011223344556677"), bytes.fromhex("8899aabbccddeeff")
    vectors = []
    for length in (64, 72, 80, 96, 112):
        for slot in (0, 1, 600_000_000, 2**32 + 5):
            a = f"2001:db8:1::/{length}"
            b = f"2001:db8:2::/{length}"
            vectors.append({
                "first": {"prefix": a, "seed": first.hex()},
                "second": {"prefix": b, "seed": second.hex()},
                "key": key.hex(),
                "slot": slot,
                "first_endpoint": end(a, first, key, slot),
                "second_endpoint": end(b, second, key, slot),
            })
    path = pathlib.Path(__file__).with_name("addresses.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


main()
