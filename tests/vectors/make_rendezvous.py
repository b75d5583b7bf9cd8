#!/usr/bin/env python3
"""Makes rendezvous.json: descriptor, keys, sealed introduction and stuffed ports (MT-20 ... MT-24), from hashlib and hmac.

Written apart from the Rust code, so that the file is a second opinion and not a copy of it. X25519 is RFC 7748,
ChaCha20 and Poly1305 are RFC 8439, XChaCha20 is draft-irtf-cfrg-xchacha-03, Ed25519 is RFC 8032; each is checked
against a vector of its document before anything is written.
"""
import hashlib
import hmac
import json
import pathlib
import struct

P = 2**255 - 19


def x25519(k, u):
    k = bytearray(k)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    k = int.from_bytes(k, "little")
    u = int.from_bytes(u, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % P, c * b % P, a * a % P, b * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public(secret):
    return x25519(secret, (9).to_bytes(32, "little"))


def rounds(state):
    s = list(state)

    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            w = s[z] ^ s[x]
            s[z] = (w << n | w >> (32 - n)) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return s


def state(key, tail):
    return struct.unpack("<16I", b"expand 32-byte k" + key + tail)


def hchacha20(key, nonce):
    s = rounds(state(key, nonce))
    return struct.pack("<8I", *s[:4], *s[12:])


def chacha20(key, nonce, counter, data):
    out = b""
    for n in range(0, len(data), 64):
        start = state(key, struct.pack("<I", counter + n // 64) + nonce)
        block = struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(start, rounds(start))))
        out += bytes(a ^ b for a, b in zip(data[n : n + 64], block))
    return out


def poly1305(key, message):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for n in range(0, len(message), 16):
        total = (total + int.from_bytes(message[n : n + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def pad(data):
    return data + bytes(-len(data) % 16)


def xchacha20poly1305(key, nonce, data, associated):
    """Ciphertext and tag."""
    key, nonce = hchacha20(key, nonce[:16]), bytes(4) + nonce[16:]
    text = chacha20(key, nonce, 1, data)
    lengths = struct.pack("<QQ", len(associated), len(text))
    return text, poly1305(chacha20(key, nonce, 0, bytes(32)), pad(associated) + pad(text) + lengths)


D = -121665 * pow(121666, P - 2, P) % P
BY = 4 * pow(5, P - 2, P) % P
BX = 15112221349535400772501151409588531511454012693041857206046113283949847762202


def ed25519_public(seed):
    h = bytearray(hashlib.sha512(seed).digest()[:32])
    h[0] &= 248
    h[31] = h[31] & 63 | 64

    def add(a, b):
        (x1, y1), (x2, y2) = a, b
        k = D * x1 * x2 * y1 * y2 % P
        x = (x1 * y2 + x2 * y1) * pow(1 + k, P - 2, P)
        y = (y1 * y2 + x1 * x2) * pow(1 - k, P - 2, P)
        return x % P, y % P

    scalar, point, total = int.from_bytes(h, "little"), (BX, BY), (0, 1)
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point, scalar = add(point, point), scalar >> 1
    x, y = total
    return (y | (x & 1) << 255).to_bytes(32, "little")


def hkdf(salt, key, info, length):
    secret = hmac.new(salt, key, hashlib.sha256).digest()
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.new(secret, block + info + bytes([counter]), hashlib.sha256).digest()
        out, counter = out + block, counter + 1
    return out[:length]


def check():
    unhex = bytes.fromhex
    scalar = unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    associated = unhex("50515253c0c1c2c3c4c5c6c7")
    sealed, tag = xchacha20poly1305(key, nonce, text, associated)
    assert sealed[:16].hex() == "bd6d179d3e83d43b9576579493c0e939" and tag.hex() == "c0875924c1c7987947deafd8780acf49"
    seed = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ed25519_public(seed).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def vector(server, client, length, now, prefix, prefix_length, rot, slot, nonce):
    window = now - now % length
    t = window.to_bytes(8, "big")
    shared = x25519(server, public(client))
    assert shared == x25519(client, public(server))
    descriptor = hashlib.sha256(shared + t).digest()[:20]

    def expand(label):
        return hkdf(b"mtd v1 rendezvous", shared, label + t + public(server) + public(client), 32)

    seed, key, published = bytes(range(0xE0, 0xE8)), bytes(range(0x20, 0x40)), now * 1000 + 123
    plain = (
        bytes([1, prefix_length, 0, 0])
        + prefix
        + seed
        + key
        + rot.to_bytes(4, "big")
        + slot.to_bytes(4, "big")
        + published.to_bytes(8, "big")
    )
    associated = b"mtd v1 introduction" + descriptor
    text, tag = xchacha20poly1305(expand(b"server to client seal"), nonce, plain, associated)
    sealed = nonce + tag + text
    item_seed = expand(b"server to client item")
    item_key = ed25519_public(item_seed)
    return {
        "server_private": server.hex(),
        "server_public": public(server).hex(),
        "client_private": client.hex(),
        "client_public": public(client).hex(),
        "time": now,
        "window_length": length,
        "window": window,
        "shared": shared.hex(),
        "descriptor": descriptor.hex(),
        "prefix": prefix.hex(),
        "prefix_length": prefix_length,
        "seed": seed.hex(),
        "key": key.hex(),
        "rot_ms": rot,
        "slot_ms": slot,
        "published_ms": published,
        "nonce": nonce.hex(),
        "plain": plain.hex(),
        "sealed": sealed.hex(),
        "client_seed": hashlib.sha256(shared + key).digest()[:8].hex(),
        "item_seed": item_seed.hex(),
        "item_public": item_key.hex(),
        "item_target": hashlib.sha1(item_key).hexdigest(),
        "ports": b"".join(bytes([n + 1, byte]) for n, byte in enumerate(sealed)).hex(),
    }


def main():
    check()
    first, second, third = bytes(range(32)), bytes(range(32, 64)), b"\x77" * 32
    prefix = bytes.fromhex("20010db8000100000000000000000000")
    narrow = bytes.fromhex("20010db8000100020003000400050000")
    vectors = [
        vector(first, second, 900, 1_800_000_123, prefix, 64, 3000, 10_000, bytes(range(24))),
        vector(second, first, 900, 1_800_000_123, prefix, 64, 3000, 10_000, bytes(range(24))),
        vector(first, third, 60, 1_800_000_959, narrow, 112, 3_600_000, 1000, b"\x5a" * 24),
    ]
    path = pathlib.Path(__file__).with_name("rendezvous.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
