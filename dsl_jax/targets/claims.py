"""Several processes share one search; nothing but the store tells them of each other.

A process claims a chunk before it searches it (`claims/`, a file a chunk), and takes those that
nobody has claimed. A claim is advice: it saves work, and nothing rests on it. When only claimed
chunks are absent, a process waits for them twice as long as its own slowest took, not at all if it
has searched none, and takes over what is still absent then: so whatever dies, and when, every chunk
is searched. A claim is taken, taken over and given back only if it is as it was seen, which a
kvstore decides for all processes; no clock is compared with another machine's.
"""

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence

import tensorstore as ts

from dsl_jax.files import writing
from dsl_jax.targets import layout

CLAIMS = "claims/"
_ABSENT, _REFUSED = b"\x02", b""  # what tensorstore calls no value, and a write that was not done


class Claims:
    """The claims on a store's chunks, as this process sees them and makes them."""

    def __init__(self, kvstore: ts.KvStore):
        self._kvstore = kvstore
        self._ours: dict[int, bytes] = {}  # chunk -> generation of our claim
        self._others: dict[int, tuple[bytes, float]] = {}  # generation, and since when we see it

    def take(self, chunks: Sequence[int], limit: int, patience: float) -> list[int]:
        """Claims some chunks.

        Args:
          chunks: that are absent, those wanted first in front.
          limit: claim no more than this.
          patience: seconds after which another process' claim is taken over, if none is free.

        Returns:
          Those claimed, in the order of `chunks`; [] if others' claims are to be waited for.
        """
        self._look(chunks)
        taken = self._claim([(c, _ABSENT) for c in chunks if c not in self._others], limit)
        if taken or len(self._others) < len(chunks):  # lost to others: look again
            return taken
        oldest = sorted(chunks, key=lambda chunk: self._others[chunk][1])
        return self._claim(
            [
                (chunk, generation)
                for chunk, (generation, since) in ((c, self._others[c]) for c in oldest)
                if time.monotonic() - since >= patience
            ],
            limit,
        )

    def give_back(self, chunks: Iterable[int]) -> None:
        """Withdraws our claims, not those of a process that has taken over."""
        with writing(self._kvstore.path):
            futures = [
                self._kvstore.write(_name(chunk), None, if_equal=self._ours.pop(chunk))
                for chunk in chunks
            ]
            for future in futures:
                future.result()

    def clear(self) -> None:
        """Removes all claims; for a store that is complete."""
        with writing(self._kvstore.path):
            for future in [self._kvstore.write(_name(chunk), None) for chunk in self._list()]:
                future.result()

    def _list(self) -> set[int]:
        """The chunks that have a claim."""
        names = self._kvstore.list(ts.KvStore.KeyRange(CLAIMS, CLAIMS[:-1] + "0")).result()
        return layout.chunks_named(CLAIMS, names)

    def _look(self, chunks: Sequence[int]) -> None:
        """Notes which of these chunks others have claimed, and since when they have."""
        reads = {c: self._kvstore.read(_name(c)) for c in self._list().intersection(chunks)}
        others = {}
        for chunk, read in reads.items():
            result = read.result()
            if result.state == "value":
                seen = self._others.get(chunk)
                if seen is None or seen[0] != result.stamp.generation:
                    seen = result.stamp.generation, time.monotonic()
                others[chunk] = seen
        self._others = others

    def _claim(self, wanted: Iterable[tuple[int, bytes]], limit: int) -> list[int]:
        """Claims up to `limit` chunks that are still claimed as (chunk, generation) says."""
        content = json.dumps({"host": platform.node(), "pid": os.getpid()})
        taken: list[int] = []
        for chunk, generation in wanted:
            if len(taken) == limit:
                break
            with writing(self._kvstore.path):
                write = self._kvstore.write(_name(chunk), content, if_equal=generation).result()
            if write.generation == _REFUSED:
                continue
            self._ours[chunk] = write.generation
            # It may have been completed, and its claim given back, since we looked.
            if layout.is_committed(self._kvstore, chunk):
                self.give_back([chunk])
            else:
                taken.append(chunk)
        return taken


def _name(chunk: int) -> str:
    return f"{CLAIMS}{chunk:08d}"
