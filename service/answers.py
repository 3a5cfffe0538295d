"""Answers to clients, from workloads that are kept by the digest of what they were read from."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..estimator.answer.estimate import find_profile, priced, read
from ..estimator.answer.request import Request
from ..estimator.answer.where import read_where
from ..estimator.base.errors import JoulecastError, RequestError
from ..estimator.base.recent import Recent
from ..estimator.cost.profile import Profile
from ..estimator.trace.workload import Workload
from .requests import EstimateRequest

_WORKLOADS, _ANSWERS, _PROFILES = 256, 4096, 64  # kept; an answer takes about 3 kB
_WORKLOAD_ROWS = 300_000  # ops and layers of all workloads that are kept, about 200 MB
_MODEL_WAYS = ("workload", "workload_id", "config")
# Fields that say how a config is read; a workload was read already.
_READ = frozenset(
    [
        "inputs",
        "sequence_length",
        "batch_size",
        "train",
        "optimizer",
        "precision",
        "accumulate",
        "clip_gradients",
        "ema",
    ]
)
_BUSY_S = 5.0


class Busy(Exception):  # noqa: N818 - not an error of the request
    """All readers of configs are taken."""


class UnknownWorkload(JoulecastError):  # noqa: N818 - the name of what is wrong
    """A workload id that the server does not have."""


class Answers:
    """Answers requests of clients; one object for all threads of a server.

    `readers` is how many configs are read at once, each in a process of its own for at most `time_limit_s`.
    `read` reads a request's model.
    """

    def __init__(
        self, *, time_limit_s: float = 60.0, readers: int = 1, read: Callable[[Request], Workload] = read
    ) -> None:
        self._time_limit_s = time_limit_s
        self._read = read
        self._readers = threading.BoundedSemaphore(readers)
        self.workloads: Recent[Workload] = Recent(_WORKLOADS, _WORKLOAD_ROWS)
        self._answers: Recent[bytes] = Recent(_ANSWERS)
        self._profiles: Recent[Profile] = Recent(_PROFILES)

    def answer(self, asked: EstimateRequest) -> bytes:
        """The document of `estimate --json` with the `workload_id`, as JSON.

        Raises JoulecastError for what cannot be answered, UnknownWorkload and Busy.
        """
        key = digest(asked.model_dump(mode="json", exclude_unset=True))
        if (kept := self._answers.get(key)) is not None:
            return kept
        if asked.hardware is None and asked.cluster is None:
            raise RequestError("`hardware` missing: give a name of `joulecast profiles`, or a `cluster`")
        name, work = self._workload(asked)
        request = Request(**self._fields(asked), model=work, layers=False)
        try:
            answer = priced(request, work, self._profile(request), where=read_where(request))
            document = {**answer.to_json(), "workload_id": name}
            text = json.dumps(document, allow_nan=False)
        except JoulecastError:
            raise
        except Exception as error:  # of figures that a document may contain and no network has
            raise JoulecastError(f"the workload cannot be priced ({type(error).__name__}: {error})") from None
        return self._answers.put(key, text.encode())

    def _fields(self, asked: EstimateRequest) -> dict[str, Any]:
        """The fields that price the model. Those that a config was read with are in its workload already."""
        fields = asked.fields()
        return fields if asked.config is None else {name: fields[name] for name in fields if name not in _read(asked)}

    def _workload(self, asked: EstimateRequest) -> tuple[str, Workload]:
        """The model's id and step."""
        given = [way for way in _MODEL_WAYS if getattr(asked, way) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise RequestError(f"give one of `workload`, `workload_id` and `config`; this request has {found}")
        if asked.workload_id is not None:
            work = self.workloads.get(asked.workload_id)
            if work is None:
                raise UnknownWorkload(f"`workload_id` {asked.workload_id} is not known here: send the workload again")
            return asked.workload_id, work
        if asked.workload is not None:
            name = digest(asked.workload)
            return name, self.workloads.get(name) or self._kept(name, _checked(asked.workload))
        assert asked.config is not None
        fields, read = asked.fields(), {*_read(asked), "dataset"}
        how = {name: value for name, value in fields.items() if name in read}
        name = digest({"config": asked.config, **how})
        return name, self.workloads.get(name) or self._kept(name, self._of_config(asked.config, how))

    def _kept(self, name: str, work: Workload) -> Workload:
        return self.workloads.put(name, work, len(work.ops) + len(work.layers))

    def _of_config(self, config: Mapping[str, Any], how: dict[str, Any]) -> Workload:
        """One step of the config's model. The classes are those of transformers; `auto_map` is not followed."""
        if not self._readers.acquire(timeout=_BUSY_S):
            raise Busy
        try:
            with tempfile.TemporaryDirectory(prefix="joulecast-serve-") as folder:
                path = Path(folder) / "config.json"
                path.write_text(json.dumps(config))
                request = Request(model=str(path), steps=1, time_limit_s=self._time_limit_s, **how)
                return self._read(request)
        except JoulecastError as error:  # the file is the server's own
            raise JoulecastError(str(error).replace(str(path), "`config`")) from None
        finally:
            self._readers.release()

    def _profile(self, request: Request) -> Profile:
        key = request.hardware_key
        return self._profiles.get(key) or self._profiles.put(key, find_profile(request))


def _read(asked: EstimateRequest) -> frozenset[str]:
    """The fields that a config's model is read with. A cluster computes activations again as its own split says."""
    return _READ if asked.cluster else _READ | {"activation_checkpointing"}


def _checked(document: Mapping[str, Any]) -> Workload:
    """The workload of a document that anyone may have written."""
    try:
        return Workload.from_json(document)
    except JoulecastError:
        raise
    except Exception as error:
        raise JoulecastError(f"workload document is corrupt ({type(error).__name__}: {error})") from None


def digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
