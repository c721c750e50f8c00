"""The options that name an embedder: an OpenAI-compatible server. Its key comes from the environment, which no list of
processes shows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sync.errors import InvalidValue

if TYPE_CHECKING:
    from edge.agent.embedders import Embedder

KEY = "AGENTDB_EMBEDDER_KEY"
F = TypeVar("F", bound=Callable[..., Any])


def embedder_options(command: F) -> F:
    """``--embedder-url``, ``--embedder-model`` and ``--embedder-dimensions``; ``embedder_of`` takes what they say."""
    for option in (
        click.option("--embedder-dimensions", type=click.IntRange(1), help="How long its vectors are."),
        click.option("--embedder-model", help="The model's name there."),
        click.option("--embedder-url", help=f"An OpenAI-compatible …/v1/embeddings; its key is in ${KEY}."),
    ):
        command = option(command)
    return command


def embedder_of(options: Mapping[str, Any], *, needed: bool = False) -> Embedder | None:
    """None if none of them is given. Raises InvalidValue if one is missing."""
    url, model, dimensions = (options[f"embedder_{name}"] for name in ("url", "model", "dimensions"))
    if not needed and url is None and model is None and dimensions is None:
        return None
    if url is None or model is None or dimensions is None:
        raise InvalidValue(
            "an embedder is named by --embedder-url, --embedder-model and --embedder-dimensions",
            hint="such as --embedder-url http://127.0.0.1:8080/v1/embeddings --embedder-model minilm "
            "--embedder-dimensions 384",
        )
    from edge.agent.embedder_adapters import HttpEmbedder

    return HttpEmbedder(url, model, dimensions=dimensions, api_key=os.environ.get(KEY) or None)


@contextmanager
def embedding_bar(*, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as the ``on_progress`` of what embeds."""
    with click.progressbar(length=0, label="vectors", file=sys.stderr, hidden=hidden) as bar:
        bar.length = None

        def on_progress(done: int, every: int) -> None:
            bar.length = every
            bar.pos = min(done, every)
            bar.update(0)

        yield on_progress
