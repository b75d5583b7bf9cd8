#!/usr/bin/env python3
"""Makes session.json: the key schedule of statically configured sessions, from hmac and hashlib alone.

Written apart from the Rust code, so that the file is a second opinion and not a copy of it.
"""
import hashlib
import hmac
import json
import pathlib

SALT = b"mtd v1 static session"


def hkdf(key, info, length):
    secret = hmac.new(SALT, key, hashlib.sha256).digest()
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(secret, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def vector(key, first, second, period, mode):
    context = first + second + period.to_bytes(8, "big") + mode.to_bytes(4, "big")

    def expand(label, length):
        return hkdf(key, context + label, length)

    directions = (b"first to second", b"second to first")
    return {
        "key": key.hex(),
        "seeds": [first.hex(), second.hex()],
        "period_ns": period,
        "mode": mode,
        "phase_ns": int.from_bytes(expand(b"phase", 8), "big") % period,
        "address_key": expand(b"address", 32).hex(),
        "seal": [expand(d + b" seal", 32).hex() for d in directions],
        "mask": [expand(d + b" mask", 16).hex() for d in directions],
    }


def main():
    key, first, second = b"\x07" * 32, (1).to_bytes(8, "big"), (2).to_bytes(8, "big")
    vectors = [vector(key, first, second, 3 * 10**9, 1), vector(key, first, second, 10**9, 2)]
    path = pathlib.Path(__file__).with_name("session.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


main()
