"""``python -m simulations.demo [--input PATH] [--s3] [--keep]``: the main job on real texts, in thirteen chapters.

Exit code 0 if everything that the chapters claim was checked and holds; 1 with one sentence if not; 130 after Ctrl-C.
Its processes and its directory are gone afterwards in every case (``--keep`` leaves the directory).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from simulations.corpus import TEXT_FIELDS, CorpusError, Text, read_path, spread, standard_library
from simulations.demo import disaster, offline, online, steering
from simulations.demo.cast import Cast, DemoFailed
from simulations.demo.screen import Screen, size
from simulations.processes import ChildFailed, Children

TEXTS_MAX = 6_000
_INPUT_HELP = (
    f"at least {offline.TEXTS_MIN} texts: a text file (a paragraph each), a JSONL file (a string a line, or an object "
    f"with a field {', '.join(TEXT_FIELDS)}), or a directory of them"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulations.demo", description="A small fleet, from end to end.")
    parser.add_argument("--input", type=Path, metavar="PATH", help=_INPUT_HELP)
    parser.add_argument("--s3", action="store_true", help="archive through an S3 API (moto's server)")
    parser.add_argument(
        "--keep", action="store_true", help="keep the directory with the stores, the archive and the logs"
    )
    options = parser.parse_args(arguments)
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="agentdb-demo-"))
    try:
        with Children(folder) as children:
            _play(screen, folder, children, options)
    except (DemoFailed, ChildFailed, CorpusError) as error:
        screen.failed(str(error))
        return 1
    except KeyboardInterrupt:
        screen.failed("interrupted")
        return 130
    finally:
        if options.keep:
            screen.say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _play(screen: Screen, folder: Path, children: Children, options: argparse.Namespace) -> None:
    screen.console.print("[bold]AgentDB Edge[/]: agents that work offline, and a fleet that agrees afterwards.")
    cast = Cast(screen, folder, children, s3=options.s3)
    cast.start_devices(offline.A, offline.B)  # they import their libraries while the texts are read
    for device in cast.devices.values():
        device.call("warm")
    cast.texts, cast.own_texts = _read(options.input), options.input is not None
    screen.say(f"{len(cast.texts):,} texts, e.g. {cast.texts[len(cast.texts) // 2].title}")
    offline.fleet_on_paper(cast)
    changes = offline.work_offline(cast)
    offline.disagree(cast, changes)
    online.bad_network(cast)
    online.conflicts(cast, changes)
    digest = online.one_state(cast)
    online.newcomer(cast, digest)
    written = disaster.lose_the_cloud(cast, digest)
    disaster.restore(cast, digest)
    disaster.go_on(cast, written)
    steering.policy(cast)
    weights = steering.good_model(cast)
    steering.bad_model(cast, weights)
    _summary(cast)


def _read(path: Path | None) -> list[Text]:
    texts = spread(standard_library(), TEXTS_MAX) if path is None else read_path(path)
    if len(texts) < offline.TEXTS_MIN:
        raise CorpusError(f"{path} holds {len(texts)} texts; the story needs at least {offline.TEXTS_MIN}")
    for half in offline.split(texts).values():
        offline.rare_words(half)  # what cannot be searched is told before anything is indexed
    return texts


def _summary(cast: Cast) -> None:
    tally, screen = cast.tally, cast.screen
    written = sum(device.call("status")["log"]["head_seq"] for device in cast.devices.values())
    rows: list[tuple[str, str]] = [
        ("operations written by the devices", f"{written:,}"),
        ("operations carried, to and from the server", f"{tally.carried:,}"),
        ("written, as JSON (vectors as numbers)", size(tally.json_bytes)),
    ]
    total = 0
    for name, counts in cast.wire().items():
        total += counts["up"] + counts["down"]
        rows.append((f"on the wire of {name}", f"{size(counts['up'])} up, {size(counts['down'])} down"))
    rows += [
        ("wire bytes / operation carried, all included", f"{total / tally.carried:,.0f}"),
        ("JSON bytes / operation written", f"{tally.json_bytes / written:,.0f}"),
        ("connections cut", str(sum(counts["cuts"] for counts in cast.wire().values()))),
        ("conflicts on record", str(tally.conflicts)),
        *((f"time: {what}", f"{seconds:.1f} s") for what, seconds in tally.times.items()),
        *((f"digest {when}", digest) for when, digest in tally.digests.items()),
        ("the whole demo", f"{screen.seconds:.0f} s"),
    ]
    screen.table(("in figures", ""), rows)


if __name__ == "__main__":
    sys.exit(main())
