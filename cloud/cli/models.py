"""``models publish|list|show|alias|remove|gc``: what the fleet's devices can be given to run.

``publish`` writes the manifest as a file: it is signed offline, with ``agentdb-cloud trust sign``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cloud.cli.output import count, directory_argument, json_option, progress_bar, show_json, show_table, when
from sync.errors import InvalidConfig, InvalidValue, StorageError

if TYPE_CHECKING:
    from cloud.fleet.model_registry import Details, Published
    from cloud.model_rows import ModelRow

TO_SIGN = "to-sign"


@click.group()
def models() -> None:
    """Publish models, and see and name what was published."""


@models.command()
@directory_argument
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the model: a-z, 0-9, '.', '_', '-'.")
@click.option("--version", required=True, help="For people, such as 1.3.0; the number is given by the fleet.")
@click.option("--details", "details_file", type=click.Path(path_type=Path), help="TOML: needs, probes, soak, lineage …")
@click.option("--metric", "metrics", multiple=True, metavar="NAME=NUMBER", help="Measured before: recall=0.93.")
@click.option("--lineage", multiple=True, metavar="NAME=TEXT", help="Where it is from: parent=…, data=…, run=….")
@click.option("--alias", "aliases", multiple=True, help="Names for this version at once: canary.")
@click.option("--out", type=click.Path(path_type=Path), help=f"Where the manifest goes. Default: DIR/{TO_SIGN}.")
@click.option("--sha256", "plain_sha256", is_flag=True, help="Each file's plain SHA-256 in the manifest, too (slower).")
@click.option(
    "--allow-pickle-that-runs-code",
    "allow_pickle",
    is_flag=True,
    help="Publish files that run their maker's code when they are loaded. Devices have to allow it, too.",
)
@json_option
def publish(
    directory: Path,
    path: Path,
    name: str,
    version: str,
    details_file: Path | None,
    metrics: tuple[str, ...],
    lineage: tuple[str, ...],
    aliases: tuple[str, ...],
    out: Path | None,
    plain_sha256: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Publish a file or a folder as the next version of a model.

    What is new of it is sealed and stored beside the archive; what any listed model has is not stored again. The
    manifest is written to OUT/models/NAME/NUMBER.json, to be signed, and its list of chunks beside it.
    """
    from cloud.server.home import Home

    details = _details(details_file, metrics, lineage)
    with Home.open(directory) as home, home.holding_models() as registry, progress_bar("bytes", quiet=as_json) as bar:
        made = registry.publish(
            *(path, name, version, details),
            aliases=aliases, allow_pickle=allow_pickle, plain_sha256=plain_sha256, progress=bar,
        )  # fmt: skip
        manifest = _write_files(out or directory / TO_SIGN, name, made.number, made.manifest, made.chunk_list)
    if as_json:
        show_json({**_published(made), "manifest": manifest, "chunk_list": manifest.with_suffix(".chunks")})
        return
    click.echo(
        f"Published {name} {version} as number {made.number}: {count(made.files, 'file')}, {made.size:,} bytes,"
        f" {count(made.chunks, 'chunk')}"
    )
    click.echo(f"Stored: {made.stored_bytes:,} bytes in {count(made.packs, 'pack')}; {made.reused_bytes:,} were there")
    if made.runs_code:
        click.echo("warning: it runs its maker's code when it is loaded; devices have to allow that", err=True)
    click.echo(f"To be signed: {manifest}")
    click.echo(f"  agentdb-cloud trust add-target TRUST {manifest} --as models/{name}/{made.number}.json")


@models.command("list")
@directory_argument
@click.argument("name", default="")
@json_option
def list_(directory: Path, name: str, as_json: bool) -> None:
    """List the versions of all models, or of one."""
    from cloud.server.home import Home
    from sync.models import Manifest

    with Home.open(directory) as home:
        rows = home.models.versions(name)
        named: dict[tuple[str, int], list[str]] = {}
        for alias in home.models.aliases(name):
            named.setdefault((alias.name, alias.number), []).append(alias.alias)
    parsed = [(row, Manifest.parse(row.manifest)) for row in rows]
    if as_json:
        show_json([_listed(row, manifest, named.get((row.name, row.number), [])) for row, manifest in parsed])
        return
    show_table(
        ("NAME", "NUMBER", "VERSION", "ALIASES", "PUBLISHED", "FILES", "BYTES", "METRICS"),
        [
            (
                row.name,
                row.number,
                row.version,
                " ".join(named.get((row.name, row.number), [])),
                when(row.at_ms),
                len(manifest.files),
                f"{manifest.size:,}",
                " ".join(f"{metric}={value:g}" for metric, value in manifest.metrics.items()),
            )
            for row, manifest in parsed
        ],
        f"No version of {name!r} is listed." if name else "No model was published yet.",
    )


@models.command()
@directory_argument
@click.argument("name")
@click.argument("which", default="")
@click.option("--out", type=click.Path(path_type=Path), help="Write manifest and chunk list there again, to be signed.")
@json_option
def show(directory: Path, name: str, which: str, out: Path | None, as_json: bool) -> None:
    """Show a version: by number, alias or version; the newest by default."""
    from cloud.server.home import Home
    from sync.models import Manifest

    with Home.open(directory) as home:
        row = home.models.find(name, which)
        aliases = [alias.alias for alias in home.models.aliases(name) if alias.number == row.number]
        if out is not None:
            _write_files(out, row.name, row.number, row.manifest, home.models.chunk_list(row))
    manifest = Manifest.parse(row.manifest)
    if as_json:
        show_json({**_listed(row, manifest, aliases), "manifest": msgspec.to_builtins(manifest)})
        return
    click.echo(f"{row.name} {row.version}, number {row.number}, published {when(row.at_ms)}")
    click.echo(f"Manifest: {manifest.path}, SHA-256 {row.sha256.hex()}, {len(row.manifest)} bytes")
    for what, text in (
        ("Aliases", " ".join(aliases)),
        ("Lineage", "; ".join(f"{key}: {value}" for key, value in manifest.lineage.items())),
        ("Metrics", " ".join(f"{key}={value:g}" for key, value in manifest.metrics.items())),
        ("Needs", " ".join(f"{key}={value}" for key, value in msgspec.to_builtins(manifest.needs).items())),
        ("Probes", " ".join(probe["kind"] for probe in msgspec.to_builtins(manifest.probes))),
        ("Soak", " ".join(f"{key}={value}" for key, value in msgspec.to_builtins(manifest.soak).items())),
        ("Runs its maker's code", "yes" if manifest.runs_code else ""),
    ):
        if text:
            click.echo(f"{what}: {text}")
    hashed = any(file.sha256 for file in manifest.files)  # by `publish --sha256`
    rows = [(file.path, f"{file.size:,}", file.sha256) for file in manifest.files]
    show_table(("FILE", "BYTES", "SHA-256")[: 2 + hashed], [row[: 2 + hashed] for row in rows], "")


@models.command()
@directory_argument
@click.argument("name")
@click.argument("alias")
@click.argument("which", required=False)
@click.option("--drop", is_flag=True, help="Forget the alias.")
@json_option
def alias(directory: Path, name: str, alias: str, which: str | None, drop: bool, as_json: bool) -> None:
    """Point ALIAS (champion, canary …) at a version: by number, another alias or version.

    Aliases are for people and for what assigns models; a device is given numbers.
    """
    from cloud.server.home import Home

    if drop == (which is not None):
        raise InvalidValue("give a version, or --drop", hint=f"models alias DIR {name} {alias} NUMBER")
    with Home.open(directory) as home:
        if which is None:
            home.models.drop_alias(name, alias)
            said: dict[str, Any] = {"name": name, "alias": alias, "number": 0}
        else:
            row = home.models.set_alias(name, alias, which)
            said = {"name": name, "alias": alias, "number": row.number, "version": row.version}
    if as_json:
        show_json(said)
    else:
        click.echo(f"{name} {alias} is {said['version']}, number {said['number']}" if which else f"{alias} is gone")


@models.command()
@directory_argument
@click.argument("name")
@click.argument("which")
@json_option
def remove(directory: Path, name: str, which: str, as_json: bool) -> None:
    """No longer list a version. Its number stays taken; what only it needs goes with gc.

    A device that has it goes on with it; one that is still fetching it cannot end once gc has run.
    """
    from cloud.server.home import Home

    with Home.open(directory) as home, home.holding_models() as registry:
        row = registry.remove(name, which)
    if as_json:
        show_json({"name": row.name, "number": row.number, "version": row.version})
    else:
        click.echo(f"{row.name} {row.version}, number {row.number}, is not listed any more")


@models.command()
@directory_argument
@json_option
def gc(directory: Path, as_json: bool) -> None:
    """Delete stored packs that no listed version needs and that are more than a week old."""
    from cloud.server.home import Home

    with Home.open(directory) as home, home.holding_models() as registry, progress_bar("packs", quiet=as_json) as bar:
        done = registry.gc(progress=bar)
    if as_json:
        show_json(done._asdict())
    else:
        kept = f"; {count(done.kept, 'younger one')} may go later" if done.kept else ""
        click.echo(f"Deleted {count(done.packs, 'pack')}, {done.bytes:,} bytes{kept}")


def _details(file: Path | None, metrics: tuple[str, ...], lineage: tuple[str, ...]) -> Details:
    """Raises InvalidConfig, InvalidValue."""
    from cloud.fleet.model_registry import Details

    try:
        document = tomllib.loads(file.read_text(encoding="utf-8")) if file is not None else {}
        details = msgspec.convert(document, Details)
    except OSError as error:
        raise InvalidConfig(f"{file}: {error.strerror}", hint="configs/model.toml is one to copy") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidConfig(f"{file}: {error}", hint="configs/model.toml shows all that there is") from error
    given: dict[str, int | float] = {}
    for name, text in map(_pair, metrics):
        try:
            given[name] = float(text)
        except ValueError as error:
            raise InvalidValue(f"{text!r} is not a number", hint="such as --metric recall=0.93") from error
    return msgspec.structs.replace(
        details, metrics={**details.metrics, **given}, lineage={**details.lineage, **dict(map(_pair, lineage))}
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidValue(f"{text!r} is not NAME=VALUE", hint="such as recall=0.93")
    return name, value


def _write_files(out: Path, name: str, number: int, manifest: bytes, chunk_list: bytes) -> Path:
    path = out / "models" / name / f"{number}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".chunks").write_bytes(chunk_list)
        path.write_bytes(manifest)
    except OSError as error:
        raise StorageError(
            f"{error.filename}: {error.strerror}", hint=f"it is published: agentdb-cloud models show DIR {name} --out …"
        ) from error
    return path


def _published(made: Published) -> dict[str, Any]:
    shown = {key: value for key, value in made._asdict().items() if not isinstance(value, bytes)}
    return {**shown, "bytes": shown.pop("size")}


def _listed(row: ModelRow, manifest: Any, aliases: list[str]) -> dict[str, Any]:
    return {
        "name": row.name,
        "number": row.number,
        "version": row.version,
        "aliases": aliases,
        "at_ms": row.at_ms,
        "sha256": row.sha256,
        "path": manifest.path,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "chunks": manifest.chunks.count,
        "metrics": manifest.metrics,
        "runs_code": manifest.runs_code,
    }
