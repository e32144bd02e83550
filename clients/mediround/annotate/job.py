"""A job's folder: where its manifest and its runs lie, and what says that they are ours.

    JOB/job.json            what it is, its name, the run that is current, and the manifest's SHA-256
    JOB/manifest.parquet    the items, frozen (``manifest``)
    JOB/not_taken.csv       what of the source became no item, where it lies, and why
    JOB/runs/KEY/run.json   what decides this run's results besides the items (``RunIdentity``)
    JOB/runs/KEY/index/     Parquet: a row a round (``rows``)
    JOB/runs/KEY/ledger*.sqlite   which items are finished, for a quick resume; made again from the index if lost
    JOB/runs/KEY/...        masks, objects and reports, where they were asked for

Knows the folder. Does not know what writes into it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from mediround._description import ServerDescription
from mediround._rounds import DialogueCorrection
from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.files import file_digest, write_atomic
from mediround.annotate.ours import JOB, MOST_BYTES, RUN
from mediround.window import RULE

FORMAT = 1
_MANIFEST, _NOT_TAKEN = "manifest.parquet", "not_taken.csv"
_KEY_DIGITS = 16
"""Of a run's folder."""
_NAME_BYTES = 16


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What decides a result besides the item. Results of different identities are never mixed.

    Attributes:
        model_name: the bundle's name.
        model_version: the bundle's version.
        model_digest: SHA-256 of the bundle's manifest, hex.
        preprocessing: names the rule by which stored values become grey.
        correction: which masks the judge may have corrected.
        threshold: a round whose score is at most this is corrected.
    """

    model_name: str
    model_version: str
    model_digest: str
    preprocessing: str
    correction: DialogueCorrection
    threshold: float

    @classmethod
    def of(
        cls, served: ServerDescription, correction: DialogueCorrection, threshold: float | None = None
    ) -> RunIdentity:
        """Of what a server has now; ``threshold`` None: its own."""
        chosen = served.threshold if threshold is None else threshold
        return cls(served.model_name, served.model_version, served.model_digest, RULE, correction, chosen)

    @property
    def key(self) -> str:
        """SHA-256, hex, of what is computed: a name alone does not decide."""
        values = [self.model_digest, self.preprocessing, self.correction, repr(float(self.threshold))]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Run:
    """One run's folder."""

    folder: Path
    identity: RunIdentity

    @property
    def key(self) -> str:
        return self.identity.key

    @property
    def index(self) -> Path:
        return self.folder / "index"

    def shard_index(self, shard: str) -> Path:
        """``shard``: ``i-of-n``. Within ``index``, so that readers find it below."""
        return self.index / f"shard-{shard}"

    def shard_indices(self) -> list[Path]:
        return sorted(self.index.glob("shard-*"))

    def check_rule(self) -> None:
        """Raises OtherRun: this client makes grey of stored values by another rule than the run's."""
        if self.identity.preprocessing != RULE:
            words = f"the run is of preprocessing {self.identity.preprocessing}, and this client has {RULE}"
            raise OtherRun(
                f"{words}: begin another run with --new-run, or use the client that it was planned with"
            )

    def ledger(self, shard: str = "") -> Path:
        """``shard``: ``i-of-n``; empty for a run that is not cut."""
        return self.folder / (f"ledger-{shard}.sqlite" if shard else "ledger.sqlite")


@dataclass(frozen=True, slots=True)
class Job:
    """A job's folder, an absolute path, which is known to be one."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / _MANIFEST

    @property
    def not_taken(self) -> Path:
        return self.folder / _NOT_TAKEN

    @classmethod
    def begin(cls, folder: Path) -> Job:
        """Make a folder a job's, or take up one that is. Raises JobError: it holds something else."""
        folder = folder.absolute()  # processes of other machines, whose folder is another, are told of it
        job, begun = cls(folder), folder.is_dir() and any(folder.iterdir())
        if begun:
            cls.open(folder)
        if not begun or not job.name:  # an earlier version gave none
            job._keep(current=job.current_key() if begun else None, name=token_hex(_NAME_BYTES))
        return job

    @classmethod
    def open(cls, folder: Path) -> Job:
        """Raises JobError: the folder is not there, or is no job's."""
        folder = folder.absolute()
        if not (folder / JOB).is_file():
            raise JobError(f"{folder}: must hold {JOB}, which `mediround annotate plan` writes")
        values = _read(folder / JOB)
        if values.get("format") != FORMAT:
            raise JobError(f"{JOB}: is of format {values.get('format')}; this version reads {FORMAT}: plan anew")
        return cls(folder)

    @property
    def name(self) -> str:
        """Tells it from other jobs, wherever it lies; reviews have it. Empty: an earlier version began it. Raises
        JobError.
        """
        return str(_read(self.folder / JOB).get("name") or "")

    def runs(self) -> list[Run]:
        """Every run, the current one first."""
        found = [self._run(path.parent) for path in sorted(self.folder.glob(f"runs/*/{RUN}"))]
        current = self.current_key()
        return sorted(found, key=lambda run: run.key != current)

    def current(self) -> Run:
        """The run that ``run`` goes on with. Raises JobError: there is none yet."""
        key = self.current_key()
        if key is None:
            raise JobError("the job has no run yet: `mediround annotate plan` begins one")
        return self._run(self._folder_of(key))

    def current_key(self) -> str | None:
        key = _read(self.folder / JOB).get("current")
        return key if isinstance(key, str) else None

    def take_up(self, identity: RunIdentity, *, new: bool = False) -> Run:
        """The run of this identity, made where there is none, and now the current one.

        Raises:
            OtherRun: another run is current, and ``new`` does not allow to leave it.
        """
        self.check(identity, new=new)
        folder = self._folder_of(identity.key)
        if not (folder / RUN).is_file():
            write_atomic(folder / RUN, _text(asdict(identity)))
        self._keep(current=identity.key)
        return Run(folder, identity)

    def check(self, identity: RunIdentity, *, new: bool = False) -> None:
        """Raises OtherRun where ``take_up`` will."""
        current = self.current_key()
        if current not in (None, identity.key) and not new:
            former = self._run(self._folder_of(str(current))).identity
            differ = _differences(former, identity)
            raise OtherRun(f"the job was planned for {differ}: --new-run begins another run of it")

    def keep_manifest(self) -> str:
        """Keep what the manifest is now, so that ``verify`` sees whether it changed: SHA-256, hex. ``plan`` calls
        it once the manifest is written. Raises JobError.
        """
        try:
            kept = file_digest(self.manifest)
        except OSError as error:
            raise JobError(f"the manifest cannot be read ({error.strerror}): plan the job first") from error
        self._keep(manifest=kept)
        return kept

    def manifest_digest(self) -> str | None:
        """SHA-256 of the manifest as it was kept, hex; None: it was not."""
        kept = _read(self.folder / JOB).get("manifest")
        return kept if isinstance(kept, str) else None

    def _keep(self, **values: str | None) -> None:
        path = self.folder / JOB
        held = _read(path) if path.is_file() else {}
        write_atomic(path, _text({**held, "format": FORMAT, **values}))

    def _folder_of(self, key: str) -> Path:
        return self.folder / "runs" / key[:_KEY_DIGITS]

    def _run(self, folder: Path) -> Run:
        try:
            return Run(folder, RunIdentity(**_read(folder / RUN)))
        except TypeError as error:
            raise JobError(f"{RUN}: is not of this version: begin another run with --new-run") from error


def _differences(former: RunIdentity, now: RunIdentity) -> str:
    before, after = asdict(former), asdict(now)
    changed = [name for name in before if before[name] != after[name]]
    return "; ".join(f"{name} {before[name]}, and the server has {after[name]}" for name in changed)


def _text(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        words = f"{path.name}: cannot be read ({type(error).__name__}); restore it, or plan the job anew"
        raise JobError(words) from error
    if not isinstance(values, dict):
        raise JobError(f"{path.name}: is not what `mediround annotate` wrote; restore it, or plan the job anew")
    return values
