"""EdgeConfig: what the owner of a device may choose, from ``<store>/edge.toml`` or a file named to ``Edge.open``.

Read once, when the store is opened, and never changed. Strict: an unknown table or key, a wrong type or an
impossible value raises InvalidConfig, which names the file, the key and what to do. ``configs/edge.toml`` shows
every key.

A store without a configuration file pays nothing for this: ``tomllib`` (25 ms) is imported when there is one to
read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edge.settings import settings
from sync.errors import InvalidConfig

if TYPE_CHECKING:
    from sync.budgets import LinkLimits

CONFIG_FILE = "edge.toml"
CONFIG_BYTES_MAX = 1 << 20
_LINK_EXAMPLE = '[[link]] and below it class = "metered", bytes_per_day = 20000000; configs/edge.toml of the sources'
_EXAMPLE = 'such as [store] and below it durability = "full"; configs/edge.toml of the sources has every key'


@settings(InvalidConfig)
class EdgeConfig(NamedTuple):
    """All defaults. Units are in the names."""

    durability: str = "full"
    quota_bytes: int = 0
    exact_mib_max: int = 150
    ann_rows_min: int = 100_000
    ann_mib_max: int = 1_024
    flush_interval_ms: int = 2_000
    sync_url: str = ""
    sync_allow_plain_http: bool = False
    sync_link_class: str = ""
    links: tuple[LinkLimits, ...] = ()
    models_allow_code: bool = False
    models_runners: Mapping[str, str] = {}


class _Key(NamedTuple):
    """Where a setting is in the file, and what it may be."""

    table: str
    key: str
    field: str
    kind: type
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()


_KEYS = (
    _Key("store", "durability", "durability", str, choices=("full", "relaxed")),
    _Key("store", "quota_bytes", "quota_bytes", int, 0, 1 << 60),
    _Key("search", "exact_mib_max", "exact_mib_max", int, 0, 65_536),
    _Key("search", "ann_rows_min", "ann_rows_min", int, 1_000, 1_000_000_000),
    _Key("search", "ann_mib_max", "ann_mib_max", int, 0, 1_048_576),
    _Key("projection", "flush_interval_ms", "flush_interval_ms", int, 50, 3_600_000),
    _Key("sync", "url", "sync_url", str),
    _Key("sync", "allow_plain_http", "sync_allow_plain_http", bool),
    _Key("sync", "link_class", "sync_link_class", str),
    _Key("models", "allow_code", "models_allow_code", bool),
    _Key("models", "runners", "models_runners", dict),
)


def config_of(config: EdgeConfig | str | os.PathLike[str] | None, store: str) -> EdgeConfig:
    """What ``Edge.open`` was given, or the file in the store, or the defaults. Raises InvalidConfig."""
    if isinstance(config, EdgeConfig):
        for key in _KEYS:
            _checked(key, getattr(config, key.field), f"EdgeConfig: {key.field}", "EdgeConfig() has the defaults")
        _check_links(_as_in_a_file(config.links), "EdgeConfig: links")
        return config
    if config is not None and not isinstance(config, str | os.PathLike):
        raise InvalidConfig(
            f"a configuration is an EdgeConfig or a path, not {type(config).__name__}",
            hint='such as config=EdgeConfig(durability="relaxed")',
        )
    if config is None:
        config = os.path.join(store, CONFIG_FILE)
        if not os.path.exists(config):
            return EdgeConfig()
    elif not os.path.exists(config):
        raise InvalidConfig(f"there is no configuration file {config!s}", hint="leave it out to use the defaults")
    return load_config(os.fspath(config))


def load_config(path: str) -> EdgeConfig:
    """Raises InvalidConfig."""
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise InvalidConfig(f"{path} is over {CONFIG_BYTES_MAX} bytes", hint="is this the right file?")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise InvalidConfig(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidConfig(f"{path} is not valid TOML: {error}", hint=_EXAMPLE) from error
    return parse_config(document, path)


def parse_config(document: Mapping[str, Any], path: str) -> EdgeConfig:
    """The configuration that a parsed TOML document says; ``path`` is for messages. Raises InvalidConfig."""
    known = {(key.table, key.key): key for key in _KEYS}
    tables = {key.table for key in _KEYS}
    chosen: dict[str, Any] = {}
    for table, content in document.items():
        if table == "link" and isinstance(content, list):
            chosen["links"] = tuple(_link(one, f"{path}: [[link]]") for one in content)
            _check_links(chosen["links"], f"{path}: [[link]]")
            continue
        if table == "link":
            raise InvalidConfig(f"{path}: [link] is one of several: [[link]]", hint=_LINK_EXAMPLE)
        if table not in tables or not isinstance(content, Mapping):
            known_tables = [*sorted(tables), "[link]"]
            raise InvalidConfig(f"{path}: there is no [{table}]", hint=f"tables are {', '.join(known_tables)}")
        for name, value in content.items():
            key = known.get((table, name))
            if key is None:
                names = sorted(key.key for key in _KEYS if key.table == table)
                raise InvalidConfig(f"{path}: [{table}] has no key {name!r}", hint=f"known are {', '.join(names)}")
            chosen[key.field] = _checked(key, value, f"{path}: {key.key} in [{key.table}]", _EXAMPLE)
    return EdgeConfig(**chosen)


def _link(table: Any, where: str) -> LinkLimits:
    from sync.budgets import LinkLimits

    kinds: dict[str, tuple[type, ...]] = {
        "class": (str,),
        **dict.fromkeys(("bytes_per_day", "bytes_per_s", "burst_bytes"), (int,)),
        "urgent_share": (int, float),
        "lanes": (list,),
    }
    if not isinstance(table, Mapping):
        raise InvalidConfig(f"{where} is a table for each class of link", hint=_LINK_EXAMPLE)
    chosen: dict[str, Any] = {}
    for name, value in table.items():
        if name not in kinds:
            raise InvalidConfig(f"{where} has no key {name!r}", hint=f"known are {', '.join(sorted(kinds))}")
        if type(value) not in kinds[name]:
            raise InvalidConfig(f"{where}: {name} cannot be {value!r:.80}", hint=_LINK_EXAMPLE)
        chosen["link_class" if name == "class" else name] = tuple(map(str, value)) if name == "lanes" else value
    return LinkLimits(**chosen)


def _as_in_a_file(links: Any) -> list[LinkLimits]:
    """Limits that were made in Python, with values of the right types. Raises InvalidConfig."""
    if links == ():
        return []
    from sync.budgets import LinkLimits

    where = "EdgeConfig: links"
    if not isinstance(links, tuple | list) or not all(isinstance(one, LinkLimits) for one in links):
        raise InvalidConfig(f"{where} are LinkLimits, not {links!r:.80}", hint='such as (LinkLimits("metered"),)')
    tables = [{"class": one.link_class, **one._asdict()} for one in links]
    for table in tables:
        del table["link_class"]
        lanes = table["lanes"]
        table["lanes"] = list(lanes) if isinstance(lanes, tuple) else lanes
    return [_link(table, where) for table in tables]


def _check_links(links: Sequence[LinkLimits], where: str) -> None:
    for limits in links:
        if problem := limits.problem():
            raise InvalidConfig(f"{where} {limits.link_class!r:.80}: {problem}", hint=_LINK_EXAMPLE)
    if len({limits.link_class for limits in links}) < len(links):
        raise InvalidConfig(f"{where}: a class is there twice", hint="one [[link]] for each class")


def _checked(key: _Key, value: Any, where: str, example: str) -> Any:
    if key.kind is dict:
        return _named(key, value, where)
    if type(value) is not key.kind:
        wanted = {int: "a whole number", str: "a string", bool: "true or false"}[key.kind]
        raise InvalidConfig(f"{where} is {wanted}, not {value!r:.80}", hint=example)
    if key.choices and value not in key.choices:
        raise InvalidConfig(f"{where} is {value!r:.80}", hint=f"choose one of {', '.join(key.choices)}")
    if type(value) is int and not key.least <= value <= key.most:
        raise InvalidConfig(f"{where} is {value}", hint=f"choose {key.least} to {key.most}")
    return value


def _named(key: _Key, value: Any, where: str) -> dict[str, str]:
    """A table of names and functions, ``module:function``."""
    wanted = f'[{key.table}.{key.key}] has a name and a function, such as embed = "myapp.models:run"'
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{where} is a table, not {value!r:.80}", hint=wanted)
    for name, function in value.items():
        parts = function.split(":") if isinstance(function, str) else []
        if len(parts) != 2 or not all(word.isidentifier() for part in parts for word in part.split(".")):
            raise InvalidConfig(f"{where}: {name!r:.80} is {function!r:.80}, which is no function", hint=wanted)
    return dict(value)
