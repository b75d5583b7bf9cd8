#!/usr/bin/env python3
"""Makes handshake.json: introduction packets, the handshake, and the session that comes of it (MT-41 ... MT-43).

Written apart from the Rust code, so that the file is a second opinion and not a copy of it. Noise is revision 34,
SipHash is the paper of Aumasson and Bernstein; X25519, ChaCha20, Poly1305 and HKDF are those of make_rendezvous.py, and
addresses those of docs/wire-format.md. What has published vectors is checked against one before anything is written.
"""
import hashlib
import hmac
import json
import pathlib
import struct

from make_rendezvous import chacha20, check as check_primitives, hkdf, pad, poly1305, public, x25519

SECOND = 10**9


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def u16(n):
    return n.to_bytes(2, "big")


def u32(n):
    return n.to_bytes(4, "big")


def u64(n):
    return n.to_bytes(8, "big")


def siphash24(key, data):
    mask = 2**64 - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x, n):
        return (x << n | x >> (64 - n)) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    whole = len(data) // 8 * 8
    last = data[whole:] + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for n in range(0, whole + 8, 8):
        (m,) = struct.unpack("<Q", (data[:whole] + last)[n : n + 8])
        v[3] ^= m
        rounds(2)
        v[0] ^= m
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def aead(key, nonce, text, associated):
    """ChaCha20-Poly1305 (RFC 8439): ciphertext and tag."""
    sealed = chacha20(key, nonce, 1, text)
    lengths = struct.pack("<QQ", len(associated), len(sealed))
    return sealed, poly1305(chacha20(key, nonce, 0, bytes(32)), pad(associated) + pad(sealed) + lengths)


class Noise:
    """The symmetric state of Noise, revision 34, section 5.2."""

    def __init__(self, name, prologue):
        assert len(name) > 32
        self.ck = self.h = sha256(name)
        self.key, self.n = None, 0
        self.mix_hash(prologue)

    def hkdf(self, material, outputs):
        secret, out, keys = hmac.new(self.ck, material, hashlib.sha256).digest(), b"", []
        for n in range(1, outputs + 1):
            out = hmac.new(secret, out + bytes([n]), hashlib.sha256).digest()
            keys.append(out)
        return keys

    def mix_hash(self, data):
        self.h = sha256(self.h, data)

    def mix_key(self, material):
        (self.ck, self.key), self.n = self.hkdf(material, 2), 0

    def mix_key_and_hash(self, material):
        self.ck, hashed, key = self.hkdf(material, 3)
        self.mix_hash(hashed)
        self.key, self.n = key, 0

    def encrypt(self, text):
        sealed = b"".join(aead(self.key, bytes(4) + struct.pack("<Q", self.n), text, self.h))
        self.n += 1
        self.mix_hash(sealed)
        return sealed


def handshake(client, server, client_ephemeral, server_ephemeral, prologue, psk, request, response):
    """IKpsk2 from above: both messages, the handshake hash, both keys of Split()."""
    e, f = client_ephemeral, server_ephemeral
    noise = Noise(b"Noise_IKpsk2_25519_ChaChaPoly_SHA256", prologue)
    noise.mix_hash(public(server))
    # -> e, es, s, ss
    first = public(e)
    noise.mix_hash(public(e))
    noise.mix_key(public(e))
    noise.mix_key(x25519(e, public(server)))
    first += noise.encrypt(public(client))
    noise.mix_key(x25519(client, public(server)))
    first += noise.encrypt(request)
    # <- e, ee, se, psk
    second = public(f)
    noise.mix_hash(public(f))
    noise.mix_key(public(f))
    noise.mix_key(x25519(f, public(e)))
    noise.mix_key(x25519(f, public(client)))
    noise.mix_key_and_hash(psk)
    second += noise.encrypt(response)
    return first, second, noise.h, noise.hkdf(b"", 2)


class End:
    def __init__(self, prefix, length, seed):
        self.prefix, self.length, self.seed = prefix, length, seed

    def endpoint(self, key, slot):
        """Candidate 0; the vectors have none that is skipped."""
        d = sha256(self.seed, key, u64(slot))
        iid = int.from_bytes(d[:8], "big") >> (self.length - 64)
        address = (int.from_bytes(self.prefix, "big") | iid).to_bytes(16, "big")
        assert 0 < iid < 2 ** (128 - self.length) - 128 and not address[8:].startswith(b"\xfd\xff")
        assert not address[8:].startswith(b"\x02\x00\x5e\xff")
        return address, 1024 + (int.from_bytes(d[8:12], "big") * 64512 >> 32)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def seal(mode, seal_key, mask_key, source, destination, slot, sequence, inner):
    """A packet from its IPv6 header on."""
    nonce = struct.pack("<IQ", slot % 2**32, sequence)
    sealed, tag = (inner, aead(seal_key, nonce, b"", inner)[1]) if mode == 2 else aead(seal_key, nonce, inner, b"")
    body = struct.pack("<Q", sequence ^ siphash24(mask_key, tag)) + tag + sealed
    length = u16(8 + len(body))
    (address, port), (to, to_port) = source, destination
    udp = u16(port) + u16(to_port) + length
    value = checksum(address + to + bytes(2) + length + bytes([0, 0, 0, 17]) + udp + bytes(2) + body) or 0xFFFF
    return b"\x60\0\0\0" + length + bytes([17, 64]) + address + to + udp + u16(value) + body


def control(source, destination, message):
    return b"\x60\0\0\0" + u16(len(message)) + bytes([254, 1]) + source + destination + message


def option(kind, value):
    return u16(kind) + u16(len(value)) + value


def padded(text, size):
    assert len(text) <= size
    return text + bytes(size - len(text))


def directions(expand):
    labels = (b"client to server", b"server to client")
    return [(expand(label + b" seal", 32), expand(label + b" mask", 16)) for label in labels]


def vector(server, client, e, f, window, server_at, client_at, slot_ms, sequences, mode, rekey_of, said):
    shared = x25519(server, public(client))
    key = sha256(b"introduction key", client)
    versions = bytes(said["versions"])
    intro_seed = versions + sha256(b"mtd introduction versions", key, versions)[:6]
    session_seeds = (b"clientS1", b"serverS2")
    now = window * SECOND + 7 * SECOND
    slot = now // (slot_ms * 10**6)

    # The introduction.
    descriptor = sha256(shared, u64(window))[:20]
    ends = End(*client_at, sha256(shared, key)[:8]), End(*server_at, intro_seed)
    client_end, server_end = (end.endpoint(key, slot) for end in ends)
    (up, up_mask), (down, down_mask) = directions(
        lambda label, length: hkdf(b"mtd v1 introduction", key, u64(window) + label, length)
    )

    # The handshake, through the introduction or inside a session.
    prologue = b"mtd v1 handshake, client to server\x02" + public(server)
    psk = b"mtd v1 handshake psk" + bytes(32)
    binding = sha256(b"mtd v1 rekey", rekey_of) if rekey_of else None
    if rekey_of:
        prologue += b"\x01" + binding
        psk = sha256(psk, binding)
    else:
        prologue += b"\x00" + u64(window) + u32(slot % 2**32) + sha256(b"mtd v1 introduction id", key)
        psk = sha256(psk, descriptor)
    period, rekey_after, expire_after, mtu, time = 3000, 120, 180, 1428, now + 12_345_678
    had = bytes.fromhex("fd006d74000000000000000000000009")
    tunnels = [
        bytes.fromhex(v6) + bytes(v4)
        for v6, v4 in (
            ("fd006d74000000000000000000000002", (10, 66, 0, 2)),
            ("fd006d74000000000000000000000001", (0, 0, 0, 0)),
        )
    ]
    request = bytes([client_at[1], 0, 0, 0]) + client_at[0] + session_seeds[0] + had
    assert len(request) == 44
    request += option(1, u64(said["client"]))
    request += b"".join(option(kind, said[name]) for kind, name in ((2, "instance"), (3, "token")) if said[name])
    # The control message has 768 bytes: 4 of its head, 96 of Noise.
    request = padded(request, 768 - 4 - 96)
    response = (
        bytes([server_at[1], mode, 0, 0])
        + server_at[0]
        + session_seeds[1]
        + u32(period)
        + u32(rekey_after)
        + u32(expire_after)
        + u16(mtu)
        + bytes(2)
        + u64(time)
        + tunnels[0]
        + tunnels[1]
    )
    assert len(response) == 92
    response = padded(response + option(1, u64(said["server"])), 768 - 4 - 48)
    why, text = said["denial"]
    denial = bytes(92) + option(0x8004, bytes([why, 0]) + said["gives"] + text.encode())
    denial = padded(denial, 768 - 4 - 48)
    end, farewell = said["term"]
    term = bytes([2, 2, 0, 0, end, len(farewell.encode()), 0, 0]) + padded(farewell.encode(), 128)
    first, second, handshake_hash, split = handshake(client, server, e, f, prologue, psk, request, response)

    # The session.
    context = handshake_hash + u64(period * 10**6) + u32(mode)

    def expand(label, length):
        return hkdf(b"mtd v1 session", b"".join(split), context + label, length)

    address_key, phase = expand(b"address", 32), int.from_bytes(expand(b"phase", 8), "big") % (period * 10**6)
    session_slot = (time + phase) // (period * 10**6)
    ends = End(*client_at, session_seeds[0]), End(*server_at, session_seeds[1])
    session_ends = [end.endpoint(address_key, session_slot) for end in ends]
    keys = directions(expand)
    inner = bytes.fromhex("6000000000083bff") + tunnels[0][:16] + tunnels[1][:16] + b"ordinary"
    control_ends = [
        bytes.fromhex("fd6d7464") + sha256(b"mtd v1 control address", address_key, label)[:12]
        for label in (b"client to server", b"server to client")
    ]
    ping = control(*control_ends, b"\x03\x01\x00\x00" + u64(0x0123456789ABCDEF))

    def packets(text, n):
        (there, there_mask), (back, back_mask) = keys
        return [
            seal(mode, there, there_mask, *session_ends, session_slot, n, text).hex(),
            seal(mode, back, back_mask, *reversed(session_ends), session_slot, n + 1, text).hex(),
        ]

    def through(key, mask, source, destination, n, kind, message):
        text = control(source[0], destination[0], bytes([kind, 2, 0, 0]) + message)
        return seal(3, key, mask, source, destination, slot, n, text).hex()

    def endpoint(end):
        return {"address": end[0].hex(), "port": end[1]}

    return {
        "server_private": server.hex(),
        "client_private": client.hex(),
        "introduction": {
            "window": window,
            "key": key.hex(),
            "server_prefix": server_at[0].hex(),
            "server_prefix_length": server_at[1],
            "server_seed": intro_seed.hex(),
            "versions": list(versions),
            "client_prefix": client_at[0].hex(),
            "client_prefix_length": client_at[1],
            "client_seed": sha256(shared, key)[:8].hex(),
            "slot_ms": slot_ms,
            "slot": slot,
            "server": endpoint(server_end),
            "client": endpoint(client_end),
            "seal": [up.hex(), down.hex()],
            "mask": [up_mask.hex(), down_mask.hex()],
        },
        "rekeyed_address_key": rekey_of.hex() if rekey_of else None,
        "binding": binding.hex() if rekey_of else None,
        "prologue": prologue.hex(),
        "psk": psk.hex(),
        "ephemeral_private": [e.hex(), f.hex()],
        "request": {
            "session_seed": session_seeds[0].hex(),
            "tunnel": had.hex(),
            "capabilities": said["client"],
            "instance": said["instance"] and said["instance"].hex(),
            "token": said["token"] and said["token"].hex(),
            "payload": request.hex(),
        },
        "response": {
            "session_seed": session_seeds[1].hex(),
            "mode": mode,
            "period_ms": period,
            "rekey_after": rekey_after,
            "expire_after": expire_after,
            "inner_mtu": mtu,
            "time": time,
            "client_tunnel": tunnels[0].hex(),
            "server_tunnel": tunnels[1].hex(),
            "capabilities": said["server"],
            "payload": response.hex(),
        },
        "denial": {"reason": why, "token": said["gives"].hex(), "text": text, "payload": denial.hex()},
        "term": {"reason": end, "text": farewell, "message": term.hex()},
        "messages": [first.hex(), second.hex()],
        "sequences": sequences,
        "packets": [
            through(up, up_mask, client_end, server_end, sequences[0], 0, first),
            through(down, down_mask, server_end, client_end, sequences[1], 1, second),
        ]
        if not rekey_of
        else None,
        "handshake_hash": handshake_hash.hex(),
        "split": b"".join(split).hex(),
        "session": {
            "address_key": address_key.hex(),
            "phase_ns": phase,
            "seal": [key.hex() for key, _ in keys],
            "mask": [mask.hex() for _, mask in keys],
            "slot": session_slot,
            "client": endpoint(session_ends[0]),
            "server": endpoint(session_ends[1]),
            "sequence": time >> 6,
            "data": inner.hex(),
            "data_packets": packets(inner, time >> 6),
            "control_addresses": [address.hex() for address in control_ends],
            "ping": ping.hex(),
            "ping_packets": packets(ping, (time >> 6) + 2),
        },
    }


def check():
    check_primitives()
    assert siphash24(bytes(range(16)), bytes(range(15))) == 0xA129CA6149BE45E5
    key = bytes(range(0x80, 0xA0))
    nonce, associated = bytes.fromhex("070000004041424344454647"), bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed, tag = aead(key, nonce, text, associated)
    assert sealed[:8].hex() == "d31a8d34648e60db" and tag.hex() == "1ae10b594f09e26a7e902ecbd0600691"
    # RFC 1071, section 3.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


def main():
    check()
    keys = [sha256(b"private key", bytes([n])) for n in range(8)]
    wide = bytes.fromhex("20010db8000100000000000000000000"), 64
    narrow = bytes.fromhex("20010db8000200030004000500060000"), 112
    other = bytes.fromhex("20010db8c11e00010000000000000000"), 64
    window = 1_800_000_000
    random = [0xFEDCBA9876543210, 0x0F1E2D3C4B5A6978]
    sixteen = [sha256(b"sixteen bytes", bytes([n]))[:16] for n in range(4)]
    plain = {
        "versions": [2, 2],
        "client": 15,
        "server": 15,
        "instance": sixteen[0],
        "token": None,
        "gives": sixteen[1],
        "denial": (5, ""),
        "term": (1, ""),
    }
    wordy = plain | {
        "versions": [2, 5],
        "client": 0,
        "server": 2**63 + 1,
        "token": sixteen[2],
        "denial": (99, "come again on Montag, grüße"),
        "term": (77, "x" * 128),
    }
    silent = plain | {"instance": None, "term": (1, "until 14:00")}
    through = vector(*keys[:4], window, wide, other, 30_000, random, 1, None, plain)
    first = bytes.fromhex(through["session"]["address_key"])
    vectors = [
        through,
        vector(*keys[4:], window + 900, narrow, other, 1000, random[::-1], 2, None, wordy),
        # New keys for the first session.
        vector(*keys[:2], *keys[4:6], window, wide, other, 30_000, random, 1, first, silent),
    ]
    path = pathlib.Path(__file__).with_name("handshake.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


main()
