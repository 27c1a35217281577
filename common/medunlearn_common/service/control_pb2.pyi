from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LaunchRequest(_message.Message):
    __slots__ = ("plan", "nonce", "model_digest", "tokenizer_digest")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    nonce: str
    model_digest: str
    tokenizer_digest: str
    def __init__(self, plan: _Optional[bytes] = ..., nonce: _Optional[str] = ..., model_digest: _Optional[str] = ..., tokenizer_digest: _Optional[str] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunList(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "state", "mode", "plan_digest", "flower_run_id", "created", "updated", "failure_code", "starts", "progress", "directive", "words")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FLOWER_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CODE_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: str
    mode: str
    plan_digest: str
    flower_run_id: str
    created: float
    updated: float
    failure_code: str
    starts: int
    progress: Progress
    directive: str
    words: _containers.RepeatedCompositeFieldContainer[LastWord]
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[str] = ..., mode: _Optional[str] = ..., plan_digest: _Optional[str] = ..., flower_run_id: _Optional[str] = ..., created: _Optional[float] = ..., updated: _Optional[float] = ..., failure_code: _Optional[str] = ..., starts: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., directive: _Optional[str] = ..., words: _Optional[_Iterable[_Union[LastWord, _Mapping]]] = ...) -> None: ...

class LastWord(_message.Message):
    __slots__ = ("site_id", "kind", "code", "at")
    SITE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    site_id: str
    kind: str
    code: str
    at: float
    def __init__(self, site_id: _Optional[str] = ..., kind: _Optional[str] = ..., code: _Optional[str] = ..., at: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("phase", "next_round", "rounds", "epsilon", "connected", "asked", "missing", "since", "at", "waits_for")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    phase: str
    next_round: int
    rounds: int
    epsilon: float
    connected: int
    asked: int
    missing: int
    since: float
    at: float
    waits_for: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, phase: _Optional[str] = ..., next_round: _Optional[int] = ..., rounds: _Optional[int] = ..., epsilon: _Optional[float] = ..., connected: _Optional[int] = ..., asked: _Optional[int] = ..., missing: _Optional[int] = ..., since: _Optional[float] = ..., at: _Optional[float] = ..., waits_for: _Optional[_Iterable[str]] = ...) -> None: ...

class Child(_message.Message):
    __slots__ = ("name", "state", "pid", "restarts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    pid: int
    restarts: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ...) -> None: ...

class Site(_message.Message):
    __slots__ = ("site_id", "registered", "seen")
    SITE_ID_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    site_id: str
    registered: bool
    seen: float
    def __init__(self, site_id: _Optional[str] = ..., registered: bool = ..., seen: _Optional[float] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("version", "started", "ready", "children", "sites", "runs")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    version: str
    started: float
    ready: bool
    children: _containers.RepeatedCompositeFieldContainer[Child]
    sites: _containers.RepeatedCompositeFieldContainer[Site]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, version: _Optional[str] = ..., started: _Optional[float] = ..., ready: bool = ..., children: _Optional[_Iterable[_Union[Child, _Mapping]]] = ..., sites: _Optional[_Iterable[_Union[Site, _Mapping]]] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...
