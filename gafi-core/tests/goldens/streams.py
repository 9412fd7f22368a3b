"""The golden values of streams.json: BLAKE3 and ChaCha with 8 rounds, written out from their specifications, without the
crates that GaFi uses. Run: python3 streams.py > streams.json"""

import json
import struct

MASK = 0xFFFFFFFF
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 8, 16, 32, 64


def rotr(x, n):
    return ((x >> n) | (x << (32 - n))) & MASK


def compress(cv, block, length, flags):
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))
    v = cv + IV[:4] + [0, 0, length, flags]

    def g(a, b, c, d, x, y):
        v[a] = (v[a] + v[b] + x) & MASK
        v[d] = rotr(v[d] ^ v[a], 16)
        v[c] = (v[c] + v[d]) & MASK
        v[b] = rotr(v[b] ^ v[c], 12)
        v[a] = (v[a] + v[b] + y) & MASK
        v[d] = rotr(v[d] ^ v[a], 8)
        v[c] = (v[c] + v[d]) & MASK
        v[b] = rotr(v[b] ^ v[c], 7)

    for _ in range(7):
        for i in range(4):
            g(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1])
        for i in range(4):
            g(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i])
        m = [m[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data, key=None, mode=0):
    """BLAKE3 of at most one chunk (1,024 bytes), 32 bytes long."""
    assert len(data) <= 1024
    cv = list(struct.unpack("<8I", key)) if key else IV
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        flags = mode | (CHUNK_START if i == 0 else 0) | (CHUNK_END | ROOT if i == len(blocks) - 1 else 0)
        cv = compress(cv, block, len(block), flags)
    return struct.pack("<8I", *cv)


def derive_key(context, material):
    return blake3(material, blake3(context.encode(), None, CONTEXT), MATERIAL)


def chacha8(key):
    """The 32-bit words of ChaCha8 with a 64-bit counter from 0 and a nonce of 0."""
    counter = 0
    while True:
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key)]
        start += [counter & MASK, counter >> 32, 0, 0]
        v = list(start)

        def quarter(a, b, c, d):
            for to, by, turn, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                v[to] = (v[to] + v[by]) & MASK
                v[turn] = rotr(v[turn] ^ v[to], 32 - n)

        for _ in range(4):
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        for a, b in zip(v, start):
            yield (a + b) & MASK
        counter += 1


class Stream:
    def __init__(self, key):
        self.key = key

    def new(seed):
        return Stream(derive_key("GaFi 2026 numbered random streams, root", struct.pack("<Q", seed)))

    def child(self, name):
        return Stream(blake3(b"n" + name.encode(), self.key, KEYED))

    def at(self, index):
        return Stream(blake3(b"i" + struct.pack("<Q", index), self.key, KEYED))

    def words(self, n):
        words = chacha8(self.key)
        return [next(words) for _ in range(n)]

    def u64(self, n):
        words = self.words(2 * n)
        return [words[2 * i] | words[2 * i + 1] << 32 for i in range(n)]

    def permutation(self, n):
        order = list(range(n))
        for i, x in zip(range(n - 1, 0, -1), self.u64(n)):
            j = (x * (i + 1)) >> 64
            order[i], order[j] = order[j], order[i]
        return order


# The official test vector of the empty input, to know that the above is BLAKE3.
assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"

cases = []
for seed, path in [(0, []), (7, []), (2**64 - 1, []), (7, ["latent"]), (7, ["latent", 3, 1234]), (42, ["a", "b"]), (42, ["ab"]), (1, [2**64 - 1, "é"])]:
    stream = Stream.new(seed)
    for step in path:
        stream = stream.child(step) if isinstance(step, str) else stream.at(step)
    cases.append({
        "seed": seed,
        "path": path,
        "key": stream.key.hex(),
        # Beyond one block (8) and beyond the four that the crate makes at once (32).
        "u64": [str(x) for x in stream.u64(40)],
        "u32": stream.words(3),
        "unit_f32": [(x >> 8) / 2**24 for x in stream.words(3)],
        "below_10": [(x * 10) >> 64 for x in stream.u64(8)],
        "permutation_9": stream.permutation(9),
    })

text = (
    r'{"config":{"a":{},"a\n\"":"é\u001f/","z":[1,1e0,-0e0,1e21,1.5e-7,null,true]},'
    r'"format":2,"inputs":{"samples":["cd"],"train":["ab","ef"]},"revision":3,"stage":"filter"}'
)
print(json.dumps({"streams": cases, "fingerprint": blake3(text.encode()).hex()}, indent=1))
