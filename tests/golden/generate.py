"""Writes the golden files: ``python -m tests.golden.generate``.

Only for a new format version; files of earlier versions stay as they are. All keys are fixed. The cipher's salt comes
from the library, so sealed segments differ with every run: they are compared by what they open to, everything else by
its bytes.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import msgpack

from sync import columns
from sync.bodies import body_name, seal_part
from sync.keys import DeviceKey, KeyRing
from sync.messages import (
    BaselinePage,
    Control,
    FetchControl,
    FetchRecords,
    HeldRole,
    Hello,
    Pull,
    PullBaseline,
    PullPage,
    RecordName,
    RecordsPage,
    Refusal,
    Report,
    Reported,
    RoleBytes,
    Welcome,
    encode,
)
from sync.operations import Kind, Operation, Shape
from sync.records import Record
from sync.segment import FLAG_FEED, GENESIS, seal
from sync.tokens import JoinToken

HERE = Path(__file__).parent
FLEET, CLOUD = b"goldengoldengold", b"cloudcloudcl\x00\x00\x00\x01"
A, B = b"devicedevice\x00\x00\x00\x01", b"machinemachi\x00\x00\x00\x02"
DEVICE_KEY, CLOUD_KEY = DeviceKey.from_bytes(bytes(range(64))), DeviceKey.from_bytes(bytes(range(64, 128)))
RING = KeyRing({7: bytes(range(32))})
TS = 1_700_000_000_000 << 16
BODY_DIGEST = bytes(range(100, 132))


def operations() -> list[Operation]:
    """Every kind, every rule, and a column of every tag."""
    words = [
        " ".join((["the", "pump", "is", "loud", "and", "the", "tank", "is", "low"] * 3)[n : n + 6]) for n in range(20)
    ]
    put = Shape(Kind.PUT, "notes", ("done", "e", "gap", "id", "n", "score", "tags", "text", "way"), "l" * 9)
    out = [
        Operation(
            A, n + 1, TS + n * 70_000, 3, put, f"k{n % 7}",
            (n % 2 == 0, array("f", [n, 1.5]).tobytes(), None if n % 3 else b"x" * n,
            f"unique-{n}", n * n, n / 7, ["a"] * (n % 4),
             words[n], {"deep": [1, None, "é🤖"]}),
        )
        for n in range(20)
    ]  # fmt: skip
    rest: list[tuple[Shape, tuple[object, ...]]] = [
        (Shape(Kind.PATCH, "notes", ("text",), "l"), ("changed",)),
        (Shape(Kind.INCREMENT, "notes", ("visits",), "c"), (5,)),
        (Shape(Kind.ADD, "notes", ("set",), "s"), ([[1, "one"], []],)),
        (Shape(Kind.REMOVE, "notes", ("set",), "s"), ([[], [[1, [[B, TS - 5]]]]],)),
        (Shape(Kind.PATCH, "notes", ("all", "high", "low"), "kxn"), (["v", [[B, TS - 4]]], 9, -9)),
        (Shape(Kind.DELETE, "notes"), ()),
    ]
    out += [Operation(A, 21 + n, TS + 1_500_000 + n, 3, shape, "k1", values) for n, (shape, values) in enumerate(rest)]
    return out


def record() -> Record:
    """A record with fields of several ages, every rule, and a floor."""
    state = Record()
    for operation in operations():
        state.apply(operation)
    for operation in operations()[20:25]:
        state.apply(operation._replace(ts=operation.ts + 9_000_000))
    state.apply(Operation(B, 1, TS + 99_000_000, 0, Shape(Kind.PATCH, "notes", ("text",), "l"), "k1", ("newer",)))
    return state


def plain_files() -> dict[str, bytes]:
    """What has to come out byte for byte."""
    token = JoinToken(b"t" * 16, b"s" * 32, FLEET, b"p" * 32, "https://cloud.example")
    welcome = Welcome(3, 5, CLOUD, 2, 3, b"i" * 32, 4, True, [], [Refusal(1, "too-large", "no")], 3, 2, 812, 3)
    roles = [RoleBytes("policies", b"role")]
    control = Control([b"root 3"], b"timestamp", b"snapshot", roles, b"assignment", b"g" * 64)
    return {
        "columns.v1.bin": columns.encode(operations()),
        "image.v1.bin": record().encode(),
        "token.v1.txt": token.encode().encode(),
        "token.v2.txt": token._replace(root=b"r" * 32).encode().encode(),
        "hello.v3.bin": encode(Hello([1, 2, 3], FLEET, A, 9, 8, b"i" * 32, 7, CLOUD, [1, 7], 811)),
        "welcome.v3.bin": encode(welcome),
        "pull.v3.bin": encode(Pull(A, 7, 100, 1 << 20, 0, CLOUD, 811, bytes(range(32)))),
        "pullpage.v3.bin": encode(PullPage([b"segment"], 8, 9, 5, 812, narrowed=True)),
        "pullbaseline.v3.bin": encode(PullBaseline(A, b"token", True, CLOUD, bytes(range(32)))),
        "baselinepage.v3.bin": encode(BaselinePage([b"segment"], b"token", 8, 9, 5, narrowed=True)),
        "fetchrecords.v3.bin": encode(FetchRecords(A, [RecordName("notes", "k1")], CLOUD, bytes(range(32)))),
        "recordspage.v3.bin": encode(RecordsPage([b"segment"], 3, [1, 2], 9, 5)),
        "fetchcontrol.v3.bin": encode(FetchControl(811, 2, [HeldRole("timestamp", 41), HeldRole("policies", 7)])),
        "control.v3.bin": encode(control),
        "report.v3.bin": encode(Report(4, b'{"log":{"level":"info"}}', 31)),
        "reported.v3.bin": encode(Reported(4, b"{}")),
    }


def sealed_files() -> dict[str, bytes]:
    push = seal(
        operations(), fleet=FLEET, stream=A, replica=A, first_seq=1, previous=GENESIS, ring=RING, signer=DEVICE_KEY
    )
    feed = seal(
        operations(), fleet=FLEET, stream=CLOUD, replica=CLOUD, first_seq=100, previous=GENESIS, ring=RING,
        signer=CLOUD_KEY, flags=FLAG_FEED, clear=msgpack.packb([140]),
    )  # fmt: skip
    name = body_name(RING, RING.current, FLEET, BODY_DIGEST)
    part = seal_part(b"the last part", ring=RING, epoch=RING.current, fleet=FLEET, name=name, number=1, parts=2)
    return {"push.v1.seg": push.data, "feed.v1.seg": feed.data, "body.v1.part": part}


if __name__ == "__main__":
    for name, data in {**plain_files(), **sealed_files()}.items():
        (HERE / name).write_bytes(data)
