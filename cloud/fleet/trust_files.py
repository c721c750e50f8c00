"""The operator's directory of offline trust: metadata, documents that it lists, and keys. It needs no control plane.

::

    metadata/1.root.json, 2.root.json, …    every root: devices go from one to the next
    metadata/targets.json, policies.json, models.json, <a team's>.json      the newest of each role
    targets/policies/<name>/<n>.json, targets/models/<name>/<n>.json        documents, as they were listed
    keys/*.pem      private keys (0600), those that are kept here: any may be moved away, and be brought with --key

A change makes a new version of the file concerned, signed at once by the keys that are here. What has too few
signatures is a draft: it goes from hand to hand (``sign``), is changed without rising, and is not published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cloud.fleet import signing
from cloud.fleet.signing import ONLINE, ROOT, TARGETS, Delegate, Keys, PublicKey, Signing, SigningKey
from cloud.storage.files import alone, replace_private, write_private
from sync.errors import InvalidConfig, InvalidValue, Malformed, NotFound, StaleWrite, StorageError, TooLarge, Untrusted
from sync.limits import ROLE_BYTES_MAX, TARGET_BYTES_MAX
from sync.ports import RandomSource
from sync.targets import Kind, parse_path

DAY_MS = 86_400_000
_ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PATTERN = re.compile(r"(policies|models)/[a-z0-9*][a-z0-9._*-]{0,63}/\*")
_KINDS = {kind.value: f"{kind.value}/*/*" for kind in Kind}


class Published(NamedTuple):
    """What goes to the control plane: every root, the roles' newest files, and the documents by their paths."""

    roots: list[bytes]
    roles: dict[str, bytes]
    documents: dict[str, bytes]


class TrustFiles:
    """Raises InvalidConfig if there is no such directory. One process changes it at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata, self.documents, self.keys = (directory / name for name in ("metadata", "targets", "keys"))
        if not (self.metadata / "1.root.json").exists():
            raise InvalidConfig(f"{directory} holds no offline trust", hint="agentdb-cloud trust init")

    @staticmethod
    def create(
        directory: Path,
        fleet: bytes,
        random: RandomSource,
        now_ms: int,
        *,
        root_keys: int = 3,
        root_threshold: int = 2,
        days: int = 365,
    ) -> TrustFiles:
        """New keys, all of them here, and a first version of everything. Raises InvalidConfig if some is there."""
        if directory.exists() and any(directory.iterdir()):
            raise InvalidConfig(f"{directory} is not empty", hint="choose another directory; keys are not replaced")
        names = [*(f"root-{number}" for number in range(1, root_keys + 1)), TARGETS, *_KINDS, ONLINE]
        made = {name: SigningKey.generate(random) for name in names}
        roots = Keys(tuple(key.public for name, key in made.items() if name.startswith("root-")), root_threshold)
        roles = {ROOT: roots.checked(ROOT), **{name: Keys((made[name].public,)) for name in (TARGETS, ONLINE)}}
        expires_ms = now_ms + days * DAY_MS
        for path in (directory, directory / "metadata", directory / "targets", directory / "keys"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, key in made.items():
            write_private(directory / "keys" / f"{name}.pem", key.to_pem())
        delegates = [Delegate(kind, (paths,), Keys((made[kind].public,))) for kind, paths in _KINDS.items()]
        data = {
            TARGETS: signing.make_targets(1, expires_ms, delegates),
            **{kind: signing.make_targets(1, expires_ms) for kind in _KINDS},
        }
        for kind, role in data.items():
            write_private(directory / "metadata" / f"{kind}.json", signing.signed_with(role, made[kind]), mode=0o644)
        root = signing.make_root(fleet, roles, 1, expires_ms)
        for name, key in made.items():
            root = signing.signed_with(root, key) if name.startswith("root-") else root
        write_private(directory / "metadata" / "1.root.json", root, mode=0o644)
        return TrustFiles(directory)

    # -- what is there -------------------------------------------------------------------------------------------------

    def roots(self) -> list[bytes]:
        """In order, the last perhaps a draft."""
        found: list[bytes] = []
        while (path := self.metadata / f"{len(found) + 1}.root.json").exists():
            found.append(_read(path))
        return found

    def roles(self) -> dict[str, bytes]:
        """``targets``, and what it delegates to and has a file."""
        names = [TARGETS, *(delegate.name for delegate in signing.delegates(self.role(TARGETS)))]
        return {name: self.role(name) for name in names if (self.metadata / f"{name}.json").exists()}

    def role(self, name: str) -> bytes:
        """Raises NotFound."""
        path = self.metadata / f"{name}.json"
        if not _ROLE_NAME.fullmatch(name) or not path.exists():
            raise NotFound(f"no role {name!r}", hint=f"agentdb-cloud trust status {self.directory} lists them")
        return _read(path)

    @property
    def fleet(self) -> bytes:
        return signing.fleet_of(self.roots()[0])

    def signing(self) -> list[Signing]:
        """Each file's: the newest root, then the roles."""
        return [self._signing(ROOT), *(self._signing(name) for name in self.roles())]

    def complete(self) -> Published:
        """What may be published. Raises Untrusted if a file has too few signatures, or a document is not as listed."""
        for found in self.signing():
            if not found.complete:
                raise Untrusted(
                    f"{found.role}: version {found.version} has {found.have} of {found.need} signatures",
                    hint=f"agentdb-cloud trust sign {self.path(found.role)} --key KEY.pem",
                )
        roles, documents = self.roles(), {}
        for name, role in roles.items():
            for path, listed in signing.listed(role).items() if name != TARGETS else ():
                documents[path] = _read(self.documents / path)
                if sha256(documents[path]).hexdigest() != listed.sha256:
                    raise Untrusted(f"{path} is not as it was listed", hint="put the file back, or add a new number")
        return Published(self.roots(), roles, documents)

    def path(self, role: str) -> Path:
        """Its newest file, which for a root is named by its version."""
        return self.metadata / (f"{len(self.roots())}.root.json" if role == ROOT else f"{role}.json")

    # -- changes -------------------------------------------------------------------------------------------------------

    def add_target(
        self,
        path: str,
        data: bytes,
        now_ms: int,
        *,
        floor: int | None = None,
        days: int = 365,
        keys: Sequence[SigningKey] = (),
    ) -> Signing:
        """List a document. ``floor``: the least number of its name that may still be assigned; it never falls.

        Raises InvalidValue for the path or the floor, StaleWrite for a number that is not newer (but for the same
        bytes: then nothing changes), TooLarge.
        """
        try:
            wanted = parse_path(path)
        except Malformed as error:  # here a person gave it
            raise InvalidValue(error.message, hint=error.hint) from error
        if len(data) > TARGET_BYTES_MAX:
            raise TooLarge(f"{path}: {len(data)} bytes, over {TARGET_BYTES_MAX}", hint="large models go in chunks")
        with self._alone(keys) as hands:
            name = signing.answering_role(self.role(TARGETS), path)
            if not (self.metadata / f"{name}.json").exists():
                _write(self.metadata / f"{name}.json", signing.make_targets(1, now_ms + days * DAY_MS))
            listed = signing.listed(self.role(name))
            before = [one for other, one in listed.items() if parse_path(other)[:2] == wanted[:2]]
            floor_before = max((one.floor for one in before), default=1)
            floor = floor_before if floor is None else floor
            same = path in listed and listed[path].sha256 == sha256(data).hexdigest()
            if same and floor == floor_before:
                return self._signed_here(name, hands)
            newest = max((one.number for one in before), default=0)
            if wanted.number <= newest and not (same and wanted.number == newest):
                raise StaleWrite(
                    f"{path}: number {newest} of this name is listed already", hint=f"--as {_next(path, newest)}"
                )
            if not floor_before <= floor <= wanted.number:
                raise InvalidValue(
                    f"a floor of {floor}", hint=f"from {floor_before}, for it never falls, to the number"
                )
            document = self.documents / path
            document.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(document, data)
            return self._change(
                name, now_ms, days, hands, lambda old, n, end: signing.with_target(old, wanted, data, floor, n, end)
            )

    def delegate(self, delegate: Delegate, now_ms: int, *, days: int = 365, keys: Sequence[SigningKey] = ()) -> Signing:
        """A role of its own, for a team or for other keys; it is asked before those that were there.

        A new role begins with an empty file, a draft until its own keys sign it. Raises InvalidValue.
        """
        if not _ROLE_NAME.fullmatch(delegate.name) or delegate.name in (ROOT, TARGETS, "timestamp", "snapshot", ONLINE):
            raise InvalidValue(f"{delegate.name!r} is no name of a role", hint="a-z, 0-9, '.', '_', '-'")
        for pattern in delegate.paths:
            if not _PATTERN.fullmatch(pattern):
                raise InvalidValue(f"{pattern!r} is no pattern of targets", hint="such as models/vision-*/*")
        with self._alone(keys) as hands:
            known = any(one.name == delegate.name for one in signing.delegates(self.role(TARGETS)))
            path = self.metadata / f"{delegate.name}.json"
            whole = known and path.exists() and self._signing(delegate.name).complete
            done = self._change(
                TARGETS, now_ms, days, hands, lambda old, n, end: signing.with_delegate(old, delegate, n, end)
            )
            if not path.exists():
                _write(path, signing.make_targets(1, now_ms + days * DAY_MS))
                self._signed_here(delegate.name, hands)
            elif not self._signing(delegate.name).complete:
                self._under_new_keys(delegate.name, whole, now_ms + days * DAY_MS, hands)
            return done

    def rotate(self, role: str, by: Keys, now_ms: int, *, days: int = 365, keys: Sequence[SigningKey] = ()) -> Signing:
        """Other keys for a role: root, targets, online, or one that is delegated to. Returns how far the file that says
        so is signed. The role's own file becomes a new version, signed by what keys are here.
        """
        by.checked(role)
        self.check_role(role)
        with self._alone(keys) as hands:
            whole = role not in (ROOT, ONLINE) and self._signing(role).complete
            if role in (ROOT, TARGETS, ONLINE):
                roles = {**signing.root_keys(self.roots()[-1]), role: by}
                done = self._change(
                    ROOT, now_ms, days, hands, lambda _, n, end: signing.make_root(self.fleet, roles, n, end)
                )
            else:
                found = {one.name: one for one in signing.delegates(self.role(TARGETS))}
                changed = found[role]._replace(keys=by)
                done = self._change(
                    TARGETS, now_ms, days, hands, lambda old, n, end: signing.with_delegate(old, changed, n, end)
                )
            if role not in (ROOT, ONLINE) and (whole or not self._signing(role).complete):
                self._under_new_keys(role, whole, now_ms + days * DAY_MS, hands)
            return done

    def renew(self, role: str, now_ms: int, *, days: int = 365, keys: Sequence[SigningKey] = ()) -> Signing:
        """The same again, for longer."""
        with self._alone(keys) as hands:
            return self._change(role, now_ms, days, hands, signing.renewed)

    def prune(
        self, role: str, keep: int, now_ms: int, *, days: int = 365, keys: Sequence[SigningKey] = ()
    ) -> tuple[list[str], Signing]:
        """Take all but the newest ``keep`` numbers of each name out of a role. Floors stay, so do documents here."""
        if keep < 1:
            raise InvalidValue("the newest of each name stays", hint="--keep 1 or more")
        with self._alone(keys) as hands:
            names: dict[tuple[str, str], list[int]] = {}
            for path in signing.listed(self.role(role)):
                names.setdefault(parse_path(path)[:2], []).append(parse_path(path).number)
            gone = [
                f"{kind}/{name}/{number}.json"
                for (kind, name), numbers in sorted(names.items())
                for number in sorted(numbers)[:-keep]
            ]
            if not gone:
                return gone, self._signing(role)
            return gone, self._change(
                role, now_ms, days, hands, lambda old, n, end: signing.without_targets(old, gone, n, end)
            )

    def sign(self, path: Path, role: str, keys: Sequence[SigningKey]) -> Signing:
        """With these keys alone. Raises InvalidValue for another file than the role's newest, or another's key."""
        with alone(self.directory):
            if path.absolute() != self.path(role).absolute():
                raise InvalidValue(f"{path.name} is not the newest file of its role", hint=f"sign {self.path(role)}")
            may = self.may_sign(role)
            for key in keys:
                if key.public.id not in may:
                    said = f"{role} is not signed by the key {key.public.id[:16]}"
                    raise InvalidValue(said, hint="status names who may")
            done = self._signing(role)
            # One more would make other bytes of the same version.
            return done if done.complete else self._signed_here(role, keys)

    def check_role(self, role: str) -> None:
        """Raises NotFound for what is no role whose keys can be replaced."""
        names = [ROOT, TARGETS, ONLINE, *(one.name for one in signing.delegates(self.role(TARGETS)))]
        if role not in names:
            raise NotFound(f"no role {role!r}", hint=f"one of: {', '.join(names)}")

    def may_sign(self, role: str) -> set[str]:
        """The ids of the keys that a role's file may be signed with: of a root those before it, too."""
        by = self.roots()[-2:] if role == ROOT else []
        keys = [key for root in by for key in signing.root_keys(root)[ROOT].keys]
        if role == TARGETS:
            keys = list(signing.root_keys(self.roots()[-1])[TARGETS].keys)
        keys += [key for one in signing.delegates(self.role(TARGETS)) if one.name == role for key in one.keys.keys]
        return {key.id for key in keys}

    def held(self) -> dict[str, SigningKey]:
        """Private keys that are here, by their names. Raises InvalidConfig for one that others may read."""
        found = {}
        for path in sorted(self.keys.glob("*.pem")) if self.keys.exists() else []:
            key = read_key_file(path)
            if isinstance(key, SigningKey):
                found[path.stem] = key
        return found

    def _change(
        self, role: str, now_ms: int, days: int, keys: Sequence[SigningKey], how: Callable[[bytes, int, int], bytes]
    ) -> Signing:
        before = self._signing(role)
        version = before.version + before.complete  # a draft is changed as it is
        path = self.metadata / (f"{version}.root.json" if role == ROOT else f"{role}.json")
        changed = how(_read(self.path(role)), version, now_ms + days * DAY_MS)
        if len(changed) > ROLE_BYTES_MAX:
            raise TooLarge(f"{role}: metadata of {len(changed)} bytes", hint="agentdb-cloud trust prune")
        _write(path, changed)
        return self._signed_here(role, keys)

    def _under_new_keys(self, role: str, whole: bool, expires_ms: int, keys: Sequence[SigningKey]) -> None:
        """A role's file, whose keys were replaced: if it was ``whole`` it may be published, and its version rises."""
        data = self.role(role)
        _write(self.path(role), signing.renewed(data, signing.version_of(data) + whole, expires_ms))
        self._signed_here(role, keys)

    def _signed_here(self, role: str, keys: Sequence[SigningKey]) -> Signing:
        """With each of these that may still sign it."""
        found = self._signing(role)
        data = before = _read(self.path(role))
        for key in keys:
            if key.public.id in found.missing:
                data = signing.signed_with(data, key)
        if data != before:
            _write(self.path(role), data)
        return self._signing(role)

    def _signing(self, role: str) -> Signing:
        if role == ROOT:
            roots = self.roots()
            return signing.signing(ROOT, roots[-1], roots[-2:])
        by = self.roots()[-1] if role == TARGETS else self.role(TARGETS)
        return signing.signing(role, self.role(role), [by])

    @contextmanager
    def _alone(self, keys: Sequence[SigningKey]) -> Iterator[list[SigningKey]]:
        """Gives all keys at hand: read before anything is changed."""
        with alone(self.directory):
            yield [*keys, *self.held().values()]


def sign_file(path: Path, keys: Sequence[SigningKey]) -> Signing | None:
    """Add a signature of each key to a metadata file, wherever it is: one file and one key are all it needs.

    Beside a root (in ``metadata/``), returns how far it is signed, and raises InvalidValue for a key that may not sign
    it; else nobody here knows who may, and None is returned.
    """
    data = _read(path)
    kind = signing.role_of(data)
    try:
        files = TrustFiles(path.absolute().parent.parent)
    except InvalidConfig:
        for key in keys:
            data = signing.signed_with(data, key)
        _write(path, data)
        return None
    return files.sign(path, ROOT if kind == ROOT else path.stem, keys)


def read_key_file(path: Path) -> SigningKey | PublicKey:
    """Raises InvalidConfig for a private key that others may read, InvalidValue for what is no key."""
    data = _read(path)
    key = signing.read_key(data)
    if isinstance(key, SigningKey) and path.stat().st_mode & 0o077:
        raise InvalidConfig(f"{path} can be read by others", hint=f"chmod 600 {path}")
    return key


def _next(path: str, newest: int) -> str:
    return parse_path(path)._replace(number=newest + 1).path


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}", hint="agentdb-cloud trust status DIR") from error


def _write(path: Path, data: bytes) -> None:
    try:
        replace_private(path, data, mode=0o644)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint="check the disk; nothing was changed") from error
