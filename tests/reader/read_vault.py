#!/usr/bin/env python3
"""Reads a lifeboat vault in a directory and checks all of it, from docs/FORMAT.md alone.

  read_vault.py VAULT_DIR TRUSTED_PEM IDENTITY_FILE [--json]

TRUSTED_PEM holds one or several public keys, IDENTITY_FILE an age identity. Exit code 0: everything that was checked is right; 1: one line
for each fault. Notes are things that the format allows (what interrupted runs left) and that nothing vouches for. Needs Python 3.11, age,
zstd and openssl. Nothing of a payload is written to disk; the identities of backups are, in a directory of mode 700 that is removed.
"""
import collections
import contextlib
import datetime
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import tomllib

MIB = 1024 * 1024
CHUNK, FRAME, BLOCK = 8 * MIB, 4 * MIB, 512 * 1024
LIMIT_DOCUMENT, LIMIT_SIGNATURE, LIMIT_SLOT, LIMIT_AGE_HEADER = 4 * MIB, 1024, 64 * 1024, 4 * 1024

# One stanza for the identity, and one that age implementations add at will and that opens nothing ("grease").
AGE_HEADER = re.compile(rb"age-encryption\.org/v1\n-> X25519 [A-Za-z0-9+/]{43}\n[A-Za-z0-9+/]{43}\n"
                        rb"(-> [!-~]*-grease( [!-~]+)*\n([A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)?--- [A-Za-z0-9+/]{43}\n")


class Bad(Exception):
    """What is wrong with the object that is looked at."""


# ---- Shapes of documents --------------------------------------------------------------------------------------------------------------
# A shape is a name in SCALARS, ("null", shape), [shape] for a list, {"*": shape} for an object with any keys, or an object's fields, where
# "name?" may be left out. Fields that are not named are refused.

DATASTORE, BACKUP, RUN = r"[a-z0-9][a-z0-9_-]{0,62}", r"\d{8}T\d{6}Z-[A-Z2-7]{6}", r"\d{8}T\d{6}Z-[0-9a-f]{6}"
SCALARS = {name: re.compile(pattern, re.ASCII) for name, pattern in {
    "hex16": r"[0-9a-f]{16}", "hex32": r"[0-9a-f]{32}", "hex64": r"[0-9a-f]{64}", "datastore": DATASTORE, "backup": BACKUP, "run": RUN,
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "key": r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"}.items()}


def null(shape):
    return ("null", shape)


def fits(value, shape, where):
    if isinstance(shape, tuple):
        if value is not None:
            fits(value, shape[1], where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise Bad(f"{where} is no list")
        for item in value:
            fits(item, shape[0], where + "[]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise Bad(f"{where} is no object")
        names = {name.rstrip("?") for name in shape}
        for name in value:
            if name not in names and "*" not in names:
                raise Bad(f"unknown field {where}.{name}")
        for name, inner in shape.items():
            if name == "*":
                for item in value.values():
                    fits(item, inner, where + ".*")
            elif name.rstrip("?") in value:
                fits(value[name.rstrip("?")], inner, f"{where}.{name.rstrip('?')}")
            elif not name.endswith("?"):
                raise Bad(f"{where}.{name} is not there")
    elif shape == "count":
        if type(value) is not int or value < 0:
            raise Bad(f"{where} is no count")
    elif shape == "number":
        if type(value) not in (int, float):
            raise Bad(f"{where} is no number")
    elif shape == "bool":
        if type(value) is not bool:
            raise Bad(f"{where} is neither true nor false")
    elif shape != "any":
        if type(value) is not str or shape in SCALARS and not SCALARS[shape].fullmatch(value):
            raise Bad(f"{where} is no {shape}: {str(value)[:60]!r}")


def parse(data, shapes, field="format"):
    """Parses a document whose field `format` names one of `shapes`."""
    def once(pairs):
        if len({name for name, _ in pairs}) != len(pairs):
            raise Bad("a field twice")
        return dict(pairs)

    def no_constant(text):
        raise Bad(f"{text} is no JSON")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
    except ValueError as error:
        raise Bad(f"no JSON: {error}") from None
    if not isinstance(value, dict) or value.get(field) not in shapes:
        raise Bad(f"unknown format {value.get(field) if isinstance(value, dict) else value!r}")
    fits(value, {field: "text", **shapes[value[field]]}, "")
    return value


PLACED = {"vault": "hex32", "datastore": "datastore", "backup": "backup"}
OBJECT = {"key": "key", "bytes": "count", "sha256": "hex64"}
CHUNKED = {**OBJECT, "chunks": {"bytes": "count", "sha256": "hex64"}}
BY = {"user": "text", "host": "text"}
VOLUMES_PLACE = {"kind": "text", "region?": "text", "role?": "text", "directory?": "text"}
MEMBER = {"volume": "text", "snapshot": "text", "attached?": {"instance": "text", "device": "text", "boot": "bool"}, "bytes": "count",
          "class": "text", "zone": "text", "iops?": "count", "throughput?": "count", "key": "text", "started": "time",
          "copy?": {"snapshot": "text", "key": "text"}, "blocks?": "count", "changed?": "count"}
SET = {"place": VOLUMES_PLACE, "tagged": "backup", "consistency": "text", "one_moment": "bool", "cut_millis": "count",
       "frozen_millis?": "count", "postgres?": {"by": "text", "label?": "text", "tablespace_map?": null("text"), "start_lsn?": "text",
       "stop_lsn?": "text", "wal_volume?": null("text")}, "members": [MEMBER], "copied_to?": VOLUMES_PLACE, "lock?": {"kind": "text",
       "until": "time", "cooling_off_until?": null("time")}}
DUMP_SOURCE = {"server_version": "text", "server_version_num": "count", "system_identifier": null("text"), "snapshot_time": "time",
               "snapshot_lsn": null("text")}
SET_SOURCE = {name if name == "snapshot_time" else name + "?": shape for name, shape in DUMP_SOURCE.items()}


def manifest_shape(of_set, object_shape):
    shape = {**PLACED, "sequence": "count", "tick": null("time"), "epoch": "count", "begun": "time", "published": "time",
             "source": SET_SOURCE if of_set else DUMP_SOURCE,
             "tools": {"lifeboat": "text"} if of_set else {"lifeboat": "text", "pg_dump": "text", "pg_dump_major": "count"},
             "payloads": [{"name": "text", "role": "text", "plain_bytes": "count", "objects": [object_shape]}],
             "envelope_sha256": "hex64", "slots": [{"name": "text", "kind": "text"}], "evidence_head": null("hex64")}
    return {**shape, "set": SET} if of_set else shape


ENVELOPE = {"lifeboat.envelope/1": {**PLACED, "number": "count", "slots": [{"name": "text", "file": "key", "sha256": "hex64", "opens_with":
            {"kind": "text", "key_id?": "text", "region?": "text", "recipients?": ["hex16"]}}]}}
FINGERPRINT_1 = {"hash": "text", "key": "hex64", "pg_dump_major": "count", "tables": [{"schema": "text", "table": "text",
                 "columns": ["text"], "rows": "count", "bytes": "count", "sum": "hex64"}], "large_objects": {"count": "count",
                 "bytes": "count", "sum": "hex64"}, "sequences": {"*": "text"}, "materialized_views": ["text"]}
FINGERPRINT = {
    "lifeboat.fingerprint/1": {**FINGERPRINT_1, "objects": {"*": "count"}},
    "lifeboat.fingerprint/2": {**FINGERPRINT_1, "server_major": "count",
        "named": [{"kind": "text", "schema?": "text", "name": "text", "owner?": "text", "sum?": "hex64"}],
        "extensions": [{"name": "text", "version": "text", "tables?": "any"}], "omitted?": [{"kind": "text", "name": "text"}]}}
HOLD = {"datastore": "datastore", "backup": "backup", "reason": "text"}
FILE = {"file": "text", "sha256": "hex64", "git_commit": null("text"), "git_dirty": null("bool")}
PROBE = {"tried": "any", "reached": "bool", "detail": "text", "outside?": "bool"}
REPORT = {"schema": "text", "run": "run", "started": "count", "drill": "text", "attempts": "count", "script": FILE, "plan": FILE,
          "lifeboat_version": "text", "lifeboat_sha256": "hex64", "declared": "time", "ended": "time", "broken": {"*": "any"},
          "backups": [{"datastore": "datastore", "backup": "backup", "chosen": "text", "manifest_sha256": "hex64",
          "signature_verified": "bool", "opened_with": "text", "snapshot_time": "time", "plain_bytes": "count",
          "objects": {"*": {"sha256": "hex64", "version": null("text")}}}], "sandbox": "text", "isolation": {"holds": ["text"],
          "gaps": ["any"], "probes": [PROBE], "controls?": [PROBE]}, "gaps_accepted": ["any"],
          "scratch?": "any", "steps": [{"step": "text", "from_seconds": "number", "seconds": "number", "error": null("text")}],
          "moments": {name: null("number") for name in ("payload_reachable", "server_up", "loaded", "first_query", "verified",
          "torn_down")}, "rto": {"allowed_seconds": "number", "measured_seconds": null("number")},
          "rto_predicted_seconds": null("number"), "rpo": {"allowed_seconds": "number", "measured_seconds": null("number")},
          "checks": [{"name": "text", "datastore": "datastore", "kind": "text", "answer": "text", "summary": "text",
          "seconds": "number"}], "controls": [{"control": "text", "noticed": null("bool"), "summary": "text", "seconds": "number"}],
          "halt": null({"at-fault": "text", "why": "text"}), "leftovers": ["any"], "verdict": "text", "reasons": ["text"], "notes": [{"text": "text",
          "owner": null("text"), "due": null("text"), "at_seconds": "number"}], "reviewers": ["text"]}
BODIES = {"started": {"run": "run", "drill": "text", "datastores": ["datastore"], "script_sha256": "hex64", "plan_sha256": "hex64",
          "report_by": "time"}, "report": REPORT, "certify": {"report": "count", "report_sha256": "hex64", "reviewer": "text",
          "statement": "text"}, "hold": HOLD, "release": HOLD, "removed": {"datastore": "datastore", "backups": [{"backup": "backup",
          "sequence": "count", "reason": "text"}]}, "restored": {"datastore": "datastore", "backup": "backup",
          "signature_verified": "bool", "opened_with": "text", "snapshot_time": "time", "plain_bytes": "count", "begun": "time",
          "thaw_seconds": null("number"), "seconds": "number", "whole": "bool", "resumed": "bool", "swapped": "bool",
          "as_recorded": null("bool"), "smoke": "count", "smoke_failed": "count", "server": null("text")}}
RECORD = {"lifeboat.evidence/1": {"vault": "hex32", "sequence": "count", "previous": null("hex64"), "at": "time", "by": BY,
          "body": {"kind": "text", "of": "any"}}}
LEASE = {"vault": "hex32", "run": "run", "drill": "text", "region": "text", "account": "text", "keys": ["text"], "host": "text",
         "expires": "time", "cost_ceiling": "count"}
EPOCH = {"lifeboat.epoch/1": {"datastore": "datastore", "epoch": "count", "tick": null("time"), "by": BY, "nonce": "text"}}


# ---- Keyed BLAKE3 ---------------------------------------------------------------------------------------------------------------------
# Python has no BLAKE3, and one compression at a time is far too slow in it. So many independent ones are computed at once: each variable of
# the algorithm is one long integer with a lane of 64 bits for each of them, of which the lower 32 are used.

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
START, END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16


def lanes(values):
    return int.from_bytes(struct.pack(f"<{len(values)}Q", *values), "little")


def compress(count, chaining, words, counter, length, flags):
    mask, ones = lanes([0xFFFFFFFF] * count), lanes([1] * count)
    v = [*chaining, *(ones * word for word in IV), counter, 0, length, flags]
    for _ in range(7):
        for at, (a, b, c, d) in enumerate(QUARTERS):
            for word, turn_d, turn_b in ((words[2 * at], 16, 12), (words[2 * at + 1], 8, 7)):
                v[a] = v[a] + v[b] + word & mask
                v[d] ^= v[a]
                v[d] = (v[d] >> turn_d | v[d] << 32 - turn_d) & mask
                v[c] = v[c] + v[d] & mask
                v[b] ^= v[c]
                v[b] = (v[b] >> turn_b | v[b] << 32 - turn_b) & mask
        words = [words[at] for at in ORDER]
    return [v[at] ^ v[at + 8] for at in range(8)]


def hashes(key, messages):
    """The keyed BLAKE3 of each message, as eight words."""
    key = struct.unpack("<8I", key)
    nodes = [[None] * max(1, -(-len(message) // 1024)) for message in messages]
    by_blocks = collections.defaultdict(list)
    for at, message in enumerate(messages):
        for number in range(len(nodes[at])):
            chunk = message[1024 * number:1024 * (number + 1)]
            by_blocks[max(1, -(-len(chunk) // 64))].append((at, number, chunk))
    for blocks, group in by_blocks.items():
        count = len(group)
        chaining, counter = [lanes([word] * count) for word in key], lanes([number for _, number, _ in group])
        for block in range(blocks):
            last = block == blocks - 1
            parts = [chunk[64 * block:64 * block + 64] for _, _, chunk in group]
            words = struct.unpack(f"<{16 * count}I", b"".join(part.ljust(64, b"\0") for part in parts))
            flags = [KEYED | START * (block == 0) | END * last | ROOT * (last and len(nodes[at]) == 1) for at, _, _ in group]
            words, lengths = [lanes(words[at::16]) for at in range(16)], lanes([len(part) for part in parts])
            chaining = compress(count, chaining, words, counter, lengths, lanes(flags))
        for (at, number, _), node in zip(group, unpack_lanes(count, chaining)):
            nodes[at][number] = node
    # Pairs are joined level by level, and one without a partner goes up as it is: the tree that BLAKE3 prescribes.
    while any(len(level) > 1 for level in nodes):
        pairs = [(at, level[left] + level[left + 1]) for at, level in enumerate(nodes) for left in range(0, len(level) - 1, 2)]
        count, words = len(pairs), list(zip(*(words for _, words in pairs)))
        flags = [KEYED | PARENT | ROOT * (len(nodes[at]) == 2) for at, _ in pairs]
        chaining = [lanes([word] * count) for word in key]
        joined = compress(count, chaining, [lanes(word) for word in words], 0, lanes([64] * count), lanes(flags))
        above = [[] for _ in nodes]
        for (at, _), node in zip(pairs, unpack_lanes(count, joined)):
            above[at].append(node)
        nodes = [above[at] + level[len(level) & ~1:] for at, level in enumerate(nodes)]
    return [level[0] for level in nodes]


def unpack_lanes(count, variables):
    return list(zip(*(struct.unpack(f"<{count}Q", variable.to_bytes(8 * count, "little")) for variable in variables)))


class Sum:
    """The sum modulo 2^256 of the hashes of what is added, in batches."""

    def __init__(self, key):
        self.key, self.count, self.bytes, self.total, self.waiting, self.size = key, 0, 0, 0, [], 0

    def add(self, message, counts_as):
        self.waiting.append(message)
        self.count, self.bytes, self.size = self.count + 1, self.bytes + counts_as, self.size + len(message)
        if self.size > 4 * MIB or len(self.waiting) >= 8192:
            self.flush()

    def flush(self):
        for words in hashes(self.key, self.waiting):
            self.total += int.from_bytes(struct.pack("<8I", *words), "little")
        self.waiting, self.size = [], 0

    def text(self):
        self.flush()
        return (self.total % 2 ** 256).to_bytes(32, "little").hex()


# ---- Archives of pg_dump --format=custom ----------------------------------------------------------------------------------------------

SETTINGS = ("ENCODING", "STDSTRINGS", "SEARCHPATH")
Entry = collections.namedtuple("Entry", "id tag kind definition copy schema owner")


class Archive:
    """Reads the table of contents at once, and then the data in the order in which it comes."""

    def __init__(self, stream):
        self.stream = stream
        if stream.read(5) != b"PGDMP":
            raise Bad("no archive of pg_dump")
        self.version = tuple(stream.read(3))
        self.int_size, self.offset_size, kind = stream.read(3)
        if not (1, 12) <= self.version[:2] <= (1, 16) or kind != 1:
            raise Bad(f"archive format {self.version}, kind {kind}")
        compressed = stream.read(1)[0] if self.version >= (1, 15) else self.int()
        if compressed:
            raise Bad("the archive is compressed")
        for _ in range(7):
            self.int()
        self.database, self.server, self.dumped_by = self.text(), self.text(), self.text()
        self.entries = [self.entry() for _ in range(self.int())]

    def int(self):
        sign, *digits = self.stream.read(1 + self.int_size)
        return int.from_bytes(bytes(digits), "little") * (-1 if sign else 1)

    def text(self):
        length = self.int()
        return None if length < 0 else self.stream.read(length)

    def entry(self):
        number, _had_data, _catalog, _oid = self.int(), self.int(), self.text(), self.text()
        tag, kind, _section = self.text(), self.text(), self.int()
        definition, _drop, copy, schema, _tablespace = (self.text() for _ in range(5))
        if self.version >= (1, 14):
            self.text()                                             # access method
        if self.version >= (1, 16):
            self.int()                                              # kind of relation
        owner, _with_oids = self.text(), self.text()
        while self.text() is not None:                              # what it depends on
            pass
        self.stream.read(1 + self.offset_size)
        return Entry(number, name(tag), name(kind), definition or b"", copy, name(schema or b""), owner or b"")

    def pieces(self):
        while (length := self.int()) != 0:
            yield self.stream.read(length)

    def data(self):
        """Yields (entry, None, pieces) for the data of a table and (entry, oid, pieces) for each large object."""
        entries = {entry.id: entry for entry in self.entries}
        while (block := self.stream.read(1, or_end=True)):
            entry = entries.get(self.int())
            if entry is None:
                raise Bad("data of nothing in the table of contents")
            if block == b"\1":
                yield entry, None, self.pieces()
            elif block == b"\3":
                while (oid := self.int()) != 0:
                    yield entry, oid, self.pieces()
            else:
                raise Bad(f"unknown block {block!r}")


def name(raw):
    """Bytes as the fingerprint writes them: as they are if they are UTF-8, and otherwise all of them escaped."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        short = {9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 39: "\\'", 92: "\\\\"}
        return "".join(short.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in raw)


NAME = rb'"(?:[^"]|"")+"|[^\s".,()]+'


def split_names(text):
    parts = [part[1:-1].replace(b'""', b'"') if part.startswith(b'"') else part for part in re.findall(NAME, text)]
    return [name(part) for part in parts]


def quoted(part):
    return '"' + part.replace('"', '""') + '"' if "." in part or '"' in part else part


# ---- Files, signatures, sealed streams ------------------------------------------------------------------------------------------------

def sha256(data):
    return hashlib.sha256(data).hexdigest()


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def moment(text):
    # Python keeps microseconds; the fraction is longer. It matters to none of the comparisons here.
    return datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))


class Pipeline:
    """The output of a chain of programs, to be read to its end."""

    def __init__(self, *commands):
        self.programs, self.bytes = [], 0
        for command in commands:
            source = self.programs[-1][1].stdout if self.programs else subprocess.DEVNULL
            self.programs.append((command[0], subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)))
            if source != subprocess.DEVNULL:
                source.close()
        self.out = self.programs[-1][1].stdout

    def read(self, length, or_end=False):
        if length < 0:
            raise Bad("a negative length in the archive")
        data = self.out.read(length)
        self.bytes += len(data)
        if len(data) < length and not (or_end and not data):
            raise Bad("ends too early")
        return data

    def rest(self):
        data = self.out.read()
        self.bytes += len(data)
        return data

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        """What a program says of the stream goes before what we found in it, since that is mostly a consequence."""
        complete = error is None and not self.out.read(1)
        if not complete:
            # What is left has to be read, or programs end by SIGPIPE and say nothing of the stream.
            while self.out.read(MIB):
                pass
        failed = [program for program, process in self.programs if process.wait() != 0]
        self.out.close()
        if failed:
            raise Bad(f"{failed[0]} refuses it") from None
        if error is None and not complete:
            raise Bad("goes on after its end")


class Vault:
    def __init__(self, directory, trusted, identity, scratch):
        self.directory, self.identity, self.scratch = directory, identity, scratch
        self.faults, self.notes, self.counts = [], [], collections.Counter()
        self.names, self.seen, self.records, self.sequences, self.removed = set(), set(), {}, collections.defaultdict(dict), set()
        self.keys = []
        with open(trusted, "rb") as source:
            blocks = re.findall(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", source.read(), re.S)
        for number, block in enumerate(blocks):
            file = os.path.join(scratch, f"trusted-{number}.pem")
            with open(file, "wb") as out:
                out.write(block)
            said = subprocess.run(["openssl", "pkey", "-pubin", "-in", file, "-noout", "-text"], capture_output=True, check=True).stdout
            self.keys.append((file, b"ED25519" in said.upper()))
        try:
            said = subprocess.run(["age-keygen", "-y", identity], capture_output=True, text=True, check=True).stdout
            self.tags = {sha256(line.encode())[:16] for line in said.split()}
        except (OSError, subprocess.CalledProcessError):
            self.tags = set()                                       # an identity of a plugin: only trying tells
        for folder, _, files in os.walk(directory):
            self.names.update(os.path.relpath(os.path.join(folder, file), directory) for file in files)
        self.names = {key for key in self.names if not key.startswith((".cold/", ".unfinished/"))}

    @contextlib.contextmanager
    def looking_at(self, key):
        try:
            yield
        except Bad as error:
            self.faults.append(f"{key}: {error}")
        except OSError as error:
            self.faults.append(f"{key}: {error.strerror}")
        except Exception as error:                                  # damaged bytes can break a reader anywhere; that is a fault too
            self.faults.append(f"{key}: could not be read: {type(error).__name__}: {error}")

    def path(self, key):
        return os.path.join(self.directory, key)

    def there(self, pattern):
        return sorted(key for key in self.names if re.fullmatch(pattern, key, re.ASCII))

    def read(self, key, limit):
        self.seen.add(key)
        if os.path.getsize(self.path(key)) > limit:
            raise Bad(f"longer than {limit} bytes")
        with open(self.path(key), "rb") as file:
            return file.read()

    def signed(self, key):
        """The bytes of a document that one of the trusted keys signed."""
        data = self.read(key, LIMIT_DOCUMENT)
        if key + ".sig" not in self.names:
            raise Bad("is not signed")
        self.read(key + ".sig", LIMIT_SIGNATURE)
        file, signature = self.path(key), self.path(key + ".sig")
        for pem, ed25519 in self.keys:
            if ed25519:
                command = ["pkeyutl", "-verify", "-pubin", "-inkey", pem, "-rawin", "-in", file, "-sigfile", signature]
            else:
                command = ["dgst", "-sha256", "-verify", pem, "-signature", signature, file]
            if subprocess.run(["openssl", *command], capture_output=True).returncode == 0:
                self.counts["signatures"] += 1
                return data
        raise Bad("no trusted key signed it")

    # ---- Evidence ----

    def evidence(self):
        for key in self.there(r"evidence/\d{8}\.json"):
            with self.looking_at(key):
                number, data = int(key[9:17]), self.read(key, LIMIT_DOCUMENT)
                self.records[number] = (sha256(data), None)
                record = parse(self.signed(key), RECORD)
                if record["vault"] != self.id or record["sequence"] != number:
                    raise Bad("is of another vault or number")
                kind, of = record["body"]["kind"], record["body"]["of"]
                if kind not in BODIES or kind == "report" and isinstance(of, dict) and of.get("schema") != "lifeboat.drill-report/1":
                    raise Bad(f"unknown kind or schema {kind!r}")
                fits(of, BODIES[kind], "body.of")
                self.records[number] = (self.records[number][0], record)
                self.counts["records"] += 1
        before = None
        for number in range(1, max(self.records, default=0) + 1):
            key = f"evidence/{number:08}.json"
            if number not in self.records:
                # A writer that died leaves its signature, and the number stays unused. A record that was taken away breaks the chain.
                if key + ".sig" not in self.names:
                    self.faults.append(f"{key}: is missing")
                continue
            digest, record = self.records[number]
            with self.looking_at(key):
                if record:
                    if record["previous"] != before:
                        raise Bad("`previous` is not the record before it")
                    self.refers(number, record["body"]["kind"], record["body"]["of"])
            before = digest

    def refers(self, number, kind, of):
        bodies = {at: (record["body"]["kind"], record["body"]["of"]) for at, (_, record) in self.records.items() if record}
        reports = [at for at, (other, body) in bodies.items() if other == "report" and body["run"] == of.get("run")]
        if kind == "removed":
            self.removed.update((of["datastore"], each["sequence"]) for each in of["backups"])
        if kind == "started" and not reports and moment(of["report_by"]) < now():
            raise Bad(f"drill {of['drill']} has no report and its time is over")
        if kind == "report":
            if len(reports) > 1:
                raise Bad("its run has a second report")
            other, body = bodies.get(of["started"], (None, None))
            if other != "started" or body["run"] != of["run"] or of["started"] >= number:
                raise Bad("is the report of nothing that was started")
        if kind == "certify" and (bodies.get(of["report"], (None,))[0] != "report" or self.records[of["report"]][0] != of["report_sha256"]):
            raise Bad("certifies no report that is there")

    # ---- One backup ----

    def backup(self, key):
        _, datastore, file = key.split("/")
        backup = file.removesuffix(".json")
        data = self.signed(key)
        try:
            kind = json.loads(data)
        except ValueError as error:
            raise Bad(f"no JSON: {error}") from None
        of_set = isinstance(kind, dict) and "set" in kind
        before_chunks = "lifeboat.manifest/2" if of_set else "lifeboat.manifest/1"
        manifest = parse(data, {before_chunks: manifest_shape(of_set, OBJECT), "lifeboat.manifest/3": manifest_shape(of_set, CHUNKED)})
        place = {"vault": self.id, "datastore": datastore, "backup": backup}
        in_place(manifest, place)
        self.counts["backups"] += 1
        number = manifest["sequence"]
        if number < 1 or number in self.sequences[datastore]:
            raise Bad(f"sequence {number} is there twice")
        self.sequences[datastore][number] = key
        if manifest["evidence_head"] and manifest["evidence_head"] not in {digest for digest, _ in self.records.values()}:
            self.faults.append(f"{key}: `evidence_head` names no record that is there")
        with self.looking_at(key):
            payload_rules(manifest, of_set)
        meta = f"meta/{datastore}/{backup}/"
        chunked = manifest["format"] == "lifeboat.manifest/3"
        identity = self.envelopes(meta, place, manifest, chunked)
        contents = {}
        for payload in manifest["payloads"]:
            whole = True
            for number, item in enumerate(payload["objects"], 1):
                whole &= self.object(meta, place, payload, item, number)
            if identity and whole:
                contents[payload["name"]] = payload
        if not identity:
            return
        known = self.fingerprint(contents.pop("fingerprint.json", None), identity, manifest)
        parts = {}
        for payload in contents.values():
            with self.looking_at(payload["objects"][0]["key"]):
                if payload["role"] in ("main", "data"):
                    parts[payload["name"]] = self.archive(payload, identity, known)
                else:
                    self.small(payload, identity, manifest)
        dumps = {payload["name"] for payload in manifest["payloads"] if payload["role"] in ("main", "data")}
        if known and set(parts) == dumps:
            with self.looking_at(meta + "fingerprint.json.zst.age"):
                entries, definitions = compare(known, parts)
                self.counts["named entries"] += entries
                self.counts["definitions"] += definitions

    def envelopes(self, meta, place, manifest, chunked):
        """Checks all envelopes, slots and guides, and returns the file of the identity if a slot could be opened."""
        envelopes = {}
        for key in self.there(re.escape(meta) + r"envelope-\d{4}\.json"):
            with self.looking_at(key):
                data, number = self.signed(key), int(key[-9:-5])
                envelope = parse(data, ENVELOPE)
                in_place(envelope, place)
                if envelope["number"] != number:
                    raise Bad(f"says that it is number {envelope['number']}")
                for slot in envelope["slots"]:
                    slot_rules(slot, meta, number)
                if number == 1 and sha256(data) != manifest["envelope_sha256"]:
                    raise Bad("is not the one that the manifest names")
                if number == 1 and [(slot["name"], slot["opens_with"]["kind"]) for slot in envelope["slots"]] != [
                        (slot["name"], slot["kind"]) for slot in manifest["slots"]]:
                    raise Bad("has other slots than the manifest says")
                envelopes[number] = envelope
                self.counts["envelopes"] += 1
        if meta + "envelope-0001.json" not in self.names:
            self.faults.append(f"{meta}envelope-0001.json: is not there")
        for number in envelopes:
            self.guide(meta, place, number, chunked)
        needed = {slot["file"] for slot in envelopes[max(envelopes)]["slots"]} if envelopes else set()
        found = None
        for slot in (slot for number in sorted(envelopes, reverse=True) for slot in envelopes[number]["slots"]):
            with self.looking_at(slot["file"]):
                # A slot of an older envelope that the newest does not list is retired, and may be gone.
                if slot["file"] not in self.names and slot["file"] not in needed:
                    continue
                data = self.read(slot["file"], LIMIT_SLOT)
                if sha256(data) != slot["sha256"]:
                    raise Bad("has another SHA-256 than its envelope says")
                self.counts["slots"] += 1
                if slot["opens_with"]["kind"] != "age":
                    continue
                if not data.startswith(b"-----BEGIN AGE ENCRYPTED FILE-----"):
                    raise Bad("is not armored")
                opened = subprocess.run(["age", "-d", "-i", self.identity, self.path(slot["file"])], capture_output=True)
                opens = opened.returncode == 0
                if self.tags and opens != bool(self.tags & set(slot["opens_with"]["recipients"])):
                    raise Bad("opens with the identity, and does not name it" if opens else "names the identity, and does not open with it")
                if opens:
                    if not re.fullmatch(rb"AGE-SECRET-KEY-1[0-9A-Z]+\n", opened.stdout):
                        raise Bad("holds no identity")
                    if found not in (None, opened.stdout):
                        raise Bad("holds another identity than the other slots")
                    found = opened.stdout
        if not found:
            self.faults.append(f"{meta}slots: none could be opened with {self.identity}")
            return None
        file = os.path.join(self.scratch, place["backup"])
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(found)
        return file

    def guide(self, meta, place, number, must_be_signed):
        key = meta + ("RESTORE.md" if number == 1 else f"RESTORE-{number:04}.md")
        with self.looking_at(key):
            if key not in self.names:
                raise Bad("is not there")
            if key + ".sig" not in self.names and not must_be_signed:
                self.notes.append(f"{key}: is from before guides were signed; nothing vouches for it")
                self.read(key, LIMIT_DOCUMENT)
                return
            words = " ".join(f"{field}={value}" for field, value in {**place, "envelope": number}.items())
            if self.signed(key).split(b"\n")[0] != f"<!-- lifeboat.guide/1 {words} -->".encode():
                raise Bad("is the guide to something else")
            self.counts["guides"] += 1

    def object(self, meta, place, payload, item, number):
        """Sizes, hashes and chunks of an object, and that its header is age's; whether it may be opened."""
        key, before = item["key"], len(self.faults)
        home = "payloads/{datastore}/{backup}/".format(**place) if payload["role"] in ("main", "data", "globals") else meta
        with self.looking_at(key):
            self.seen.add(key)
            if key != f"{home}{payload['name']}.zst.age" + (f".{number:04}" if number > 1 else ""):
                raise Bad("is not in its place")
            if os.path.getsize(self.path(key)) != item["bytes"]:
                raise Bad(f"has not {item['bytes']} bytes")
            hashed, chunks = hashlib.sha256(), []
            with open(self.path(key), "rb") as file:
                header = file.read(LIMIT_AGE_HEADER) if number == 1 else b""
                file.seek(0)
                while chunk := file.read(CHUNK):
                    hashed.update(chunk)
                    chunks.append(hashlib.sha256(chunk).digest())
            if "chunks" in item:
                self.chunks(meta + key.rsplit("/", 1)[1] + ".chunks", item, chunks)
            if hashed.hexdigest() != item["sha256"]:
                raise Bad("has another SHA-256 than the manifest says")
            if number == 1 and not AGE_HEADER.match(header):
                raise Bad("is no age file with one X25519 stanza")
            self.counts["objects"] += 1
        return len(self.faults) == before

    def chunks(self, key, item, found):
        with self.looking_at(key):
            if item["chunks"]["bytes"] != CHUNK:
                raise Bad("chunks are not of 8 MiB")
            listed = self.read(key, 32 * len(found))
            if len(listed) != 32 * len(found) or sha256(listed) != item["chunks"]["sha256"]:
                raise Bad("is not the list that the manifest names")
            for at, digest in enumerate(found):
                if listed[32 * at:32 * at + 32] != digest:
                    self.faults.append(f"{item['key']}: chunk {at} (from byte {at * CHUNK}) has another SHA-256 than its list says")
            self.counts["chunks"] += len(found)

    def open(self, payload, identity):
        """Checks the zstd frames of a payload, and then gives its content."""
        opening = (["cat", *(self.path(item["key"]) for item in payload["objects"])], ["age", "-d", "-i", identity])
        with Pipeline(*opening) as sealed:
            frames(sealed)
        self.counts["payloads"] += 1
        return Pipeline(*opening, ["zstd", "-dq"])

    def content(self, payload, identity):
        with self.open(payload, identity) as stream:
            data = stream.rest()
        if len(data) != payload["plain_bytes"]:
            raise Bad(f"content has {len(data)} bytes, and the manifest says {payload['plain_bytes']}")
        return data

    def fingerprint(self, payload, identity, manifest):
        if payload:
            with self.looking_at(payload["objects"][0]["key"]):
                known = parse(self.content(payload, identity), FINGERPRINT)
                if known["hash"] != "blake3-keyed/sum-mod-2^256":
                    raise Bad(f"unknown hash {known['hash']!r}")
                if known["pg_dump_major"] != manifest["tools"]["pg_dump_major"]:
                    raise Bad("`pg_dump_major` is not that of the manifest")
                major = manifest["source"]["server_version_num"] // 10000
                if known.get("server_major", major) != major:
                    raise Bad("`server_major` is not that of the manifest")
                return known

    def small(self, payload, identity, manifest):
        data = self.content(payload, identity)
        if payload["role"] == "globals" and re.search(rb"^\\(un)?restrict", data, re.M):
            raise Bad("has a line with \\restrict")
        if payload["role"] == "plan":
            try:
                tomllib.loads(data.decode())
            except ValueError as error:
                raise Bad(f"no TOML: {error}") from None
        if payload["role"] == "blocks":
            member = manifest["set"]["members"][int(payload["name"][-3:]) - 1]
            *lines, rest = data.split(b"\n")
            numbers = []
            for line in lines:
                if not re.fullmatch(rb"(0|[1-9]\d*) [0-9a-f]{64}", line):
                    raise Bad(f"no block and hash: {line[:80]!r}")
                numbers.append(int(line.split()[0]))
            if rest or numbers != sorted(set(numbers)):
                raise Bad("is cut off, or not ascending")
            if numbers and numbers[-1] * BLOCK >= member["bytes"] or len(numbers) != member["blocks"]:
                raise Bad("has not the blocks that the manifest says")
            self.counts["blocks"] += len(numbers)

    def archive(self, payload, identity, known):
        """Reads an archive, and recomputes what the fingerprint says of rows and large objects."""
        key = bytes.fromhex(known["key"]) if known else bytes(32)
        tables, large = {}, Sum(key)
        with self.open(payload, identity) as stream:
            archive = Archive(stream)
            owners = owners_of(archive.entries)
            for entry, oid, pieces in archive.data():
                if oid is None:
                    if (entry.schema, entry.tag) in tables:
                        raise Bad(f"data of {entry.schema}.{entry.tag} twice")
                    tables[entry.schema, entry.tag] = rows_of(entry, pieces, Sum(key))
                    self.counts["rows"] += tables[entry.schema, entry.tag][1]
                else:
                    content, owner = b"".join(pieces), owners.get(oid, entry.owner)
                    large.add(struct.pack("<IQ", oid, len(owner)) + owner + content, len(content))
            size = stream.bytes
        if size != payload["plain_bytes"]:
            raise Bad(f"content has {size} bytes, and the manifest says {payload['plain_bytes']}")
        if len(tables) != sum(entry.kind == "TABLE DATA" for entry in archive.entries):
            raise Bad("data that its table of contents names is not there")
        more = {entry.kind for entry in archive.entries} - {"TABLE DATA", "SEQUENCE SET", "DATABASE", "DATABASE PROPERTIES", *SETTINGS}
        if payload["role"] == "data" and more:
            raise Bad(f"is not of data only: {sorted(more)}")
        self.counts["tables"] += len(tables)
        self.counts["large objects"] += large.count
        return archive.entries, tables, (large.count, large.bytes, large.text())

    # ---- All of it ----

    def check(self):
        with self.looking_at("vault.json"):
            self.id = parse(self.read("vault.json", LIMIT_DOCUMENT), {"lifeboat.vault/1": {"vault": "hex32"}})["vault"]
        if not hasattr(self, "id"):
            return
        for key in sorted(self.names):
            if not SCALARS["key"].fullmatch(key):
                self.faults.append(f"{key!r}: is no name of an object")
        self.evidence()
        for key in self.there(rf"manifests/{DATASTORE}/{BACKUP}\.json"):
            with self.looking_at(key):
                self.backup(key)
        for datastore, numbers in self.sequences.items():
            for number in range(1, max(numbers)):
                if number not in numbers and (datastore, number) not in self.removed:
                    self.faults.append(f"manifests/{datastore}: backup number {number} is missing, and no record says that it was removed")
        self.runs()
        for key in sorted(self.names - self.seen):
            if re.match(r"(manifests|evidence)/", key) and not key.endswith(".json.sig"):
                self.faults.append(f"{key}: nothing of this name belongs here")
            else:
                self.notes.append(f"{key}: nothing refers to it, and it was not looked at")

    def runs(self):
        for key in self.there(rf"runs/epochs/{DATASTORE}/\d{{12}}\.json"):
            with self.looking_at(key):
                epoch = parse(self.read(key, LIMIT_DOCUMENT), EPOCH)
                if epoch["datastore"] != key.split("/")[2] or epoch["epoch"] != int(key[-17:-5]):
                    raise Bad("is of another datastore or number")
        for key in self.there(rf"runs/{RUN}/(lease|over)\.json"):
            with self.looking_at(key):
                paper = parse(self.signed(key), {f"lifeboat.{key.split('/')[2].removesuffix('.json')}/1": LEASE})
                if (paper["vault"], paper["run"]) != (self.id, key.split("/")[1]):
                    raise Bad("is of another vault or run")


# ---- Rules that need no vault ---------------------------------------------------------------------------------------------------------

def in_place(document, place):
    for field, value in place.items():
        if document[field] != value:
            raise Bad(f"`{field}` is {document[field]!r}, which is not its place")


def payload_rules(manifest, of_set):
    names = [payload["name"] for payload in manifest["payloads"]]
    roles = collections.Counter(payload["role"] for payload in manifest["payloads"])
    patterns = {"blocks": r"blocks-\d{3}", "plan": r"plan\.toml"} if of_set else {
        "main": "main", "data": r"data-\d{3}", "globals": r"globals\.sql", "fingerprint": r"fingerprint\.json", "plan": r"plan\.toml"}
    for payload in manifest["payloads"]:
        if not re.fullmatch(patterns.get(payload["role"], r"(?!)"), payload["name"]) or not payload["objects"]:
            raise Bad(f"payload {payload['name']!r} with the role {payload['role']!r}, or without objects")
    if len(set(names)) != len(names):
        raise Bad("a payload twice")
    if not of_set:
        if any(roles[role] != 1 for role in ("main", "globals", "fingerprint")):
            raise Bad("main, globals and fingerprint are not there exactly once")
        return
    members, rules = manifest["set"]["members"], manifest["set"]
    if not 1 <= len(members) <= 128 or any(len({member[field] for member in members}) != len(members) for field in ("volume", "snapshot")):
        raise Bad("not 1 to 128 members, or one twice")
    hashed = {f"blocks-{number:03}" for number, member in enumerate(members, 1) if "blocks" in member}
    if hashed != {name for name in names if name.startswith("blocks")}:
        raise Bad("payloads are not those of the members that were hashed")
    if any(("copy" in member) != ("copied_to" in rules) for member in members):
        raise Bad("`copied_to` and copies do not belong together")
    if rules["consistency"] not in ("crash", "filesystem", "postgres") or ("postgres" in rules) != (rules["consistency"] == "postgres"):
        raise Bad("unknown consistency, or `postgres` without it")
    if rules.get("postgres", {}).get("by", "online-backup") not in ("checkpoint", "online-backup") or (
            rules.get("postgres", {}).get("by") == "checkpoint" and not rules["one_moment"]):
        raise Bad("`postgres.by` is unknown, or a checkpoint without one moment")
    for where in (rules["place"], rules.get("copied_to", rules["place"])):
        if not ({"ebs": {"kind", "region"}, "local": {"kind", "directory"}}.get(where["kind"], {""}) <= set(where) <= (
                {"kind", "region", "role"} if where["kind"] == "ebs" else {"kind", "directory"})):
            raise Bad("unknown place")


def slot_rules(slot, meta, number):
    match = re.fullmatch(re.escape(meta) + r"slots/(\d{4})-(.+)\.(age|kms)", slot["file"])
    kind, fields = slot["opens_with"]["kind"], set(slot["opens_with"])
    if not match or int(match[1]) > number or match[2] != slot["name"] or {"age": "age", "kms": "aws-kms"}[match[3]] != kind:
        raise Bad(f"slot {slot['name']!r} is not in its place")
    if fields != ({"kind", "recipients"} if kind == "age" else {"kind", "key_id", "region"}):
        raise Bad(f"slot {slot['name']!r} has not the fields of its kind")


def frames(stream):
    """Walks over zstd frames: each with a checksum, and with at most 4 MiB of content where its header says how much."""
    while (magic := stream.read(4, or_end=True)):
        if magic != b"\x28\xb5\x2f\xfd":
            raise Bad("no zstd frame")
        head = stream.read(1)[0]
        single, size_size = head >> 5 & 1, (0, 2, 4, 8)[head >> 6] or head >> 5 & 1
        if not head & 4:
            raise Bad("a zstd frame without checksum")
        stream.read((0 if single else 1) + (0, 1, 2, 4)[head & 3])
        if size_size and int.from_bytes(stream.read(size_size), "little") + (256 if size_size == 2 else 0) > FRAME:
            raise Bad("a zstd frame with more than 4 MiB of content")
        last = False
        while not last:
            block = int.from_bytes(stream.read(3), "little")
            last = block & 1
            stream.read(1 if block >> 1 & 3 == 1 else block >> 3)
        stream.read(4)


def owners_of(entries):
    """Large objects have an entry each, or, since PostgreSQL 17, one for many of one owner, with their numbers in its definition."""
    owners = {}
    for entry in entries:
        if entry.kind == "BLOB":
            owners[int(entry.tag)] = entry.owner
        elif entry.kind == "BLOB METADATA":
            owners.update((int(oid), entry.owner) for oid in re.findall(rb"\d+", entry.definition))
    return owners


def rows_of(entry, pieces, total):
    """Columns, number, bytes and sum of the rows of a table's data."""
    copy = re.fullmatch(rb"COPY (?:(?:%b)\.)?(?:%b) *(?:\((.*)\) *)?FROM stdin;\n" % (NAME, NAME), entry.copy or b"", re.S)
    if not copy:
        raise Bad(f"no COPY statement: {entry.copy!r}")
    rest, end = [], []
    for piece in pieces:
        first, *lines = piece.split(b"\n")
        rest.append(first)
        if lines:
            for line in [b"".join(rest), *lines[:-1]]:
                if end or line == b"\\.":
                    end.append(line)
                else:
                    total.add(line + b"\n", len(line) + 1)
            rest = [lines[-1]]
    # pg_dump puts the end mark of COPY and two empty lines into the archive.
    if any(rest) or end != [b"\\.", b"", b""]:
        raise Bad(f"data of {entry.tag} does not end as pg_dump ends it")
    return split_names(copy[1] or b""), total.count, total.bytes, total.text()


def compare(known, parts):
    """Holds what was recomputed from the archives against the fingerprint."""
    entries, _, large = parts["main"]
    found = {}
    for _, tables, _ in parts.values():
        for table, data in tables.items():
            if table in found:
                raise Bad(f"data of {'.'.join(table)} is in two archives")
            found[table] = data
    fields = ("columns", "rows", "bytes", "sum")
    recorded = {(table["schema"], table["table"]): tuple(table[field] for field in fields) for table in known["tables"]}
    if len(recorded) != len(known["tables"]) or set(recorded) != set(found):
        raise Bad(f"the archives have other tables: {sorted(set(recorded) ^ set(found))}")
    for table, values in recorded.items():
        for what, wanted, got in zip(fields, values, found[table]):
            if wanted != got:
                raise Bad(f"{what} of {'.'.join(table)}: recorded {wanted}, computed {got}")
    if (known["large_objects"]["count"], known["large_objects"]["bytes"], known["large_objects"]["sum"]) != large:
        raise Bad(f"large objects: recorded {known['large_objects']}, computed {large}")
    if any(other[2][0] for part, other in parts.items() if part != "main"):
        raise Bad("large objects in an archive of data")
    quote = quoted if known["format"] != "lifeboat.fingerprint/1" else lambda part: part
    qualified = {"SEQUENCE SET": {}, "MATERIALIZED VIEW": {}}
    for entry in entries:
        if entry.kind in qualified:
            qualified[entry.kind][f"{quote(entry.schema)}.{quote(entry.tag)}"] = name(entry.definition).strip()
    if known["sequences"] != qualified["SEQUENCE SET"]:
        raise Bad(f"sequences: recorded {known['sequences']}, computed {qualified['SEQUENCE SET']}")
    if sorted(known["materialized_views"]) != sorted(qualified["MATERIALIZED VIEW"]):
        raise Bad("other materialized views")
    data = ("TABLE DATA", "BLOB", "BLOBS", "BLOB METADATA")
    if "objects" in known and known["objects"] != (kinds := collections.Counter(entry.kind for entry in entries if entry.kind not in data)):
        raise Bad(f"objects: recorded {known['objects']}, computed {dict(kinds)}")
    if "named" in known:
        hidden = (*data, "SEQUENCE SET", *SETTINGS)
        summed = {item["kind"] for item in known["named"] if "sum" in item}
        wanted = [tuple(item.get(field, "") for field in ("kind", "schema", "name", "owner", "sum")) for item in known["named"]]
        got = [(*named(entry), sum_of(entry, bytes.fromhex(known["key"])) if entry.kind in summed else "")
               for entry in entries if entry.kind not in hidden]
        if wanted != sorted(got):
            raise Bad(f"named: only recorded {sorted(set(wanted) - set(got))}, only computed {sorted(set(got) - set(wanted))}")
        return len(wanted), sum(item[4] != "" for item in wanted)
    return 0, 0


def sum_of(entry, key):
    """The hash of a definition: of its statements without their semicolons, sorted, each once, each after its length."""
    statements = {match[0].strip() for match in re.finditer(rb"""(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'";])+""", entry.definition)} - {b""}
    if named(entry)[2] == "DATABASE":
        renamed = (re.sub(rb"\bDATABASE (?:%b)" % NAME, b'DATABASE "database"', statement, count=1) for statement in statements)
        statements = {re.sub(rb" TABLESPACE = (?:%b)" % NAME, b"", statement) for statement in renamed}
    return struct.pack("<8I", *hashes(key, [b"".join(struct.pack("<Q", len(each)) + each for each in sorted(statements))])[0]).hex()


def named(entry):
    if entry.kind in ("DATABASE", "DATABASE PROPERTIES") or not entry.schema and entry.tag.startswith("DATABASE "):
        return entry.kind, "", "DATABASE", ""
    return entry.kind, entry.schema, entry.tag, name(entry.owner)


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    if len(arguments) != 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            vault = Vault(*arguments, scratch)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"a key or a program cannot be used: {error}")
        vault.check()
    if "--json" in sys.argv:
        print(json.dumps({"right": not vault.faults, "faults": vault.faults, "notes": vault.notes, "counts": vault.counts}, indent=2))
    else:
        for fault in vault.faults:
            print(f"FAULT {fault}")
        for note in vault.notes:
            print(f"note  {note}")
        print("checked: " + ", ".join(f"{count} {what}" for what, count in vault.counts.items()))
    sys.exit(1 if vault.faults else 0)


if __name__ == "__main__":
    main()
