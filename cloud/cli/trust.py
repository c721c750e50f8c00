"""``trust``: offline keys, and what they sign. A directory, no control plane and no network.

Each change signs with the keys that are in the directory and those of ``--sign-with``; what it prints is how far the
changed file is signed by then. Files with too few signatures go from hand to hand: ``trust sign FILE --key KEY.pem``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.cli.output import count, directory_argument, json_option, show_json, show_table, when
from sync.errors import InvalidConfig, InvalidValue

if TYPE_CHECKING:
    from cloud.fleet.signing import Keys, Signing, SigningKey

_MANY_TARGETS = 1000
_FILE = click.Path(path_type=Path, dir_okay=False)
_Command = Callable[..., Any]


def _change_options(command: _Command) -> _Command:
    for option in (
        click.option("--sign-with", "sign_with", multiple=True, type=_FILE, metavar="KEY.pem",
                     help="A private key that is kept elsewhere. May be given more than once."),
        click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True,
                     help="For how long the changed file is valid."),
        json_option,
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def trust() -> None:
    """Sign what runs on devices: offline keys, policies and models. Needs no control plane and no network."""


@trust.command()
@directory_argument
@click.option("--fleet", required=True, help="The fleet's id, 32 hex characters; agentdb-cloud init prints it.")
@click.option("--root-keys", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option("--root-threshold", type=click.IntRange(1, 16), default=2, show_default=True, help="How many must sign.")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Validity of all files.")
@json_option
def init(directory: Path, fleet: str, root_keys: int, root_threshold: int, days: int, as_json: bool) -> None:
    """Make a fleet's keys and the first version of its metadata, in a new directory."""
    from hashlib import sha256

    from cloud.fleet.trust_files import TrustFiles
    from cloud.ports import SystemClock, SystemRandom

    try:
        fleet_id = bytes.fromhex(fleet)
    except ValueError:
        fleet_id = b""
    if len(fleet_id) != 16:
        raise InvalidValue(f"{fleet!r} is not a fleet's id", hint="32 hex characters: agentdb-cloud status DIR --json")
    now_ms = SystemClock().wall_ms()
    files = TrustFiles.create(
        directory, fleet_id, SystemRandom(), now_ms, root_keys=root_keys, root_threshold=root_threshold, days=days
    )
    digest = sha256(files.roots()[0]).hexdigest()
    if as_json:
        show_json({"directory": directory, "fleet": fleet_id, "root_sha256": digest, "keys": sorted(files.held())})
        return
    click.echo(f"Made the trust of fleet {fleet_id.hex()} in {directory}")
    click.echo(f"Digest of the first root: {digest}")
    click.echo("Next:")
    click.echo(f"  move {files.keys}/root-*.pem to separate places that have no network: {root_threshold} of them sign")
    click.echo(f"  move {files.keys}/online.pem to the control plane; the others stay with who signs releases")
    click.echo(f"  agentdb-cloud trust add-target {directory} FILE --as policies/NAME/1.json")


@trust.command()
@click.argument("file", type=_FILE)
@json_option
def key(file: Path, as_json: bool) -> None:
    """Make a private key in FILE (0600) and its public half in FILE.pub, which delegate and rotate take."""
    from cloud.fleet.signing import SigningKey
    from cloud.ports import SystemRandom

    made = SigningKey.generate(SystemRandom())
    public = file.with_name(file.name + ".pub")
    _write_new(file, made.to_pem(), 0o600)
    _write_new(public, made.public.to_pem(), 0o644)
    if as_json:
        show_json({"key": made.public.id, "private": file, "public": public})
    else:
        click.echo(f"{made.public.id}\nprivate: {file}\npublic:  {public}")


@trust.command()
@directory_argument
@click.argument("name")
@click.option("--path", "paths", multiple=True, required=True, metavar="PATTERN", help="Such as models/vision-*/*")
@click.option("--key", "by", multiple=True, required=True, type=_FILE, help="Of who signs it: public or private PEM.")
@click.option("--threshold", type=click.IntRange(1, 64), default=1, show_default=True)
@_change_options
def delegate(
    directory: Path, name: str, paths: tuple[str, ...], by: tuple[Path, ...], threshold: int,
    sign_with: tuple[Path, ...], days: int, as_json: bool,
) -> None:  # fmt: skip
    """Let other keys list targets of their own: NAME is asked for PATTERN before those that were there."""
    from cloud.fleet.signing import Delegate
    from cloud.fleet.trust_files import TrustFiles

    made = Delegate(name, paths, _public(by, threshold))
    files = TrustFiles(directory)
    _show(files.delegate(made, _now_ms(), days=days, keys=_private(sign_with)), as_json)


@trust.command()
@directory_argument
@click.argument("role")
@click.option("--key", "by", multiple=True, type=_FILE, help="Of who signs it from now on: public or private PEM.")
@click.option("--new", type=click.IntRange(0, 16), default=0, help="Make so many new keys in DIR/keys for it.")
@click.option("--threshold", type=click.IntRange(1, 64), default=1, show_default=True)
@_change_options
def rotate(
    directory: Path, role: str, by: tuple[Path, ...], new: int, threshold: int,
    sign_with: tuple[Path, ...], days: int, as_json: bool,
) -> None:  # fmt: skip
    """Give ROLE (root, targets, online, policies, models, a team's) other keys; the old ones sign nothing any more.

    A new root is signed by enough of the old root keys and enough of the new ones. Rotating online undoes whatever its
    thief has signed: versions and times set far ahead, too.
    """
    from cloud.fleet.signing import SigningKey
    from cloud.fleet.trust_files import TrustFiles
    from cloud.ports import SystemRandom

    files = TrustFiles(directory)
    if not by and not new:
        raise InvalidValue("which keys?", hint="--key FILE for each, or --new 1; trust renew keeps the keys")
    files.check_role(role)
    hands = _private(sign_with)
    made = [SigningKey.generate(SystemRandom()) for _ in range(new)]
    keys = _public(by, threshold, [one.public for one in made])
    places = [files.keys / f"{role}-{one.public.id[:8]}.pem" for one in made]
    for one, place in zip(made, places, strict=True):
        _write_new(place, one.to_pem(), 0o600)
    found = files.rotate(role, keys, _now_ms(), days=days, keys=hands)
    if as_json:
        show_json({**_as_dict(found), "private": places})
        return
    _show(found, as_json=False)
    for place in places:
        click.echo(f"new key: {place}")
    if role == "online" and places:
        click.echo(f"When the root is signed: agentdb-cloud publish DIR {directory} --online-key {places[0]}")


@trust.command()
@directory_argument
@click.argument("role")
@_change_options
def renew(directory: Path, role: str, sign_with: tuple[Path, ...], days: int, as_json: bool) -> None:
    """Make the next version of ROLE, the same for longer."""
    from cloud.fleet.trust_files import TrustFiles

    _show(TrustFiles(directory).renew(role, _now_ms(), days=days, keys=_private(sign_with)), as_json)


@trust.command()
@click.argument("file", type=_FILE)
@click.option("--key", "by", multiple=True, required=True, type=_FILE, metavar="KEY.pem", help="A private key.")
@json_option
def sign(file: Path, by: tuple[Path, ...], as_json: bool) -> None:
    """Add a signature to a metadata FILE: this file and a key are all that is needed.

    If FILE is in a trust directory, it is looked up whether the key may sign it.
    """
    from cloud.fleet.trust_files import sign_file

    found = sign_file(file, _private(by))
    if found is not None:
        _show(found, as_json)
    elif as_json:
        show_json({"file": file, "signed_by": [one.public.id for one in _private(by)]})
    else:
        click.echo(f"Signed {file}; put it back into the trust directory's metadata/")


@trust.command("add-target")
@directory_argument
@click.argument("file", type=_FILE)
@click.option(
    "--as", "path", required=True, metavar="PATH", help="policies/NAME/NUMBER.json or models/NAME/NUMBER.json"
)
@click.option(
    "--floor", type=click.IntRange(1), default=None,
    help="The least number of this name that may still be assigned. Default: as it was.",
)  # fmt: skip
@_change_options
def add_target(
    directory: Path, file: Path, path: str, floor: int | None, sign_with: tuple[Path, ...], days: int, as_json: bool
) -> None:
    """List FILE among what may run: in the role that PATH is delegated to. Numbers rise, and are never used again."""
    from cloud.fleet.documents import check_document
    from cloud.fleet.trust_files import TrustFiles

    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidValue(f"{file}: {error.strerror}", hint="which document?") from error
    check_document(path, data)
    files = TrustFiles(directory)
    _show(files.add_target(path, data, _now_ms(), floor=floor, days=days, keys=_private(sign_with)), as_json)


@trust.command()
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """How far each file is signed, until when it is valid, and who may sign what is missing."""
    from hashlib import sha256

    from cloud.fleet.trust_files import TrustFiles

    files = TrustFiles(directory)
    found = files.signing()
    here = {held.public.id: name for name, held in files.held().items()}
    if as_json:
        show_json({
            "fleet": files.fleet,
            "root_sha256": sha256(files.roots()[0]).hexdigest(),
            "files": [_as_dict(one) for one in found],
            "keys": {name: keyid for keyid, name in here.items()},
        })  # fmt: skip
        return
    click.echo(f"Fleet {files.fleet.hex()}; digest of the first root: {sha256(files.roots()[0]).hexdigest()}")
    show_table(
        ("ROLE", "VERSION", "TARGETS", "SIGNED", "VALID UNTIL", "MISSING"),
        [
            (
                one.role,
                one.version,
                one.targets or "",
                f"{one.have} of {one.need}",
                when(one.expires_ms) + (" (over)" if one.expires_ms <= _now_ms() else ""),
                " ".join(here.get(keyid, keyid[:16]) for keyid in one.missing),
            )
            for one in found
        ],
        "Nothing is signed yet.",
    )
    for one in found:
        if one.targets >= _MANY_TARGETS:
            warning = f"{one.role} lists {one.targets} targets, which every device reads: agentdb-cloud trust prune"
            click.echo(f"warning: {warning}", err=True)


@trust.command()
@directory_argument
@click.argument("role")
@click.option("--keep", type=click.IntRange(1), default=10, show_default=True, help="The newest numbers of each name.")
@_change_options
def prune(directory: Path, role: str, keep: int, sign_with: tuple[Path, ...], days: int, as_json: bool) -> None:
    """Take old numbers out of ROLE. What runs goes on; they can be assigned no more. Floors stay."""
    from cloud.fleet.trust_files import TrustFiles

    gone, found = TrustFiles(directory).prune(role, keep, _now_ms(), days=days, keys=_private(sign_with))
    if as_json:
        show_json({**_as_dict(found), "gone": gone})
        return
    click.echo(f"Taken out: {count(len(gone), 'target')}")
    _show(found, as_json)


def _show(found: Signing, as_json: bool) -> None:
    if as_json:
        show_json(_as_dict(found))
        return
    click.echo(f"{found.role}: version {found.version}, signed by {found.have} of {found.need}")
    if not found.complete:
        click.echo(f"Still to sign, one of: {' '.join(keyid[:16] for keyid in found.missing)}", err=True)


def _as_dict(found: Signing) -> dict[str, object]:
    return {**found._asdict(), "complete": found.complete}


def _now_ms() -> int:
    from cloud.ports import SystemClock

    return SystemClock().wall_ms()


def _private(paths: Sequence[Path]) -> list[SigningKey]:
    from cloud.fleet.signing import SigningKey
    from cloud.fleet.trust_files import read_key_file

    found = []
    for path in paths:
        read = read_key_file(path)
        if not isinstance(read, SigningKey):
            raise InvalidValue(f"{path} is a public key", hint="its private half signs")
        found.append(read)
    return found


def _public(paths: Sequence[Path], threshold: int, more: Sequence[Any] = ()) -> Keys:
    from cloud.fleet.signing import Keys, SigningKey
    from cloud.fleet.trust_files import read_key_file

    read = [read_key_file(path) for path in paths]
    keys = [one.public if isinstance(one, SigningKey) else one for one in read]
    return Keys((*keys, *more), threshold).checked("keys")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    from cloud.storage.files import write_private

    try:
        write_private(path, data, mode=mode)
    except FileExistsError as error:
        raise InvalidConfig(f"{path} exists already", hint="keys are not replaced: choose another name") from error
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}", hint="choose another place") from error
