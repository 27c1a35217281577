"""Records: the only part that opens patient data. See ``reading`` for files in, records out."""

from medunlearn_client.records.forget_sets import (
    ForgetRequest,
    ForgetRootMatcher,
    ForgetSplit,
    join,
    require_whole_patients,
    retain_all,
    select,
)
from medunlearn_client.records.partition import assign_sites, split_nonmembers
from medunlearn_client.records.quarantine import BadRow, Quarantine
from medunlearn_client.records.reading import (
    FORMATS,
    READERS,
    ReadOptions,
    read_records,
    stream_records,
    stream_with_sources,
)
from medunlearn_client.records.record import InvalidRecord, Record, prompt_from_question

__all__ = [
    "FORMATS",
    "READERS",
    "BadRow",
    "ForgetRequest",
    "ForgetRootMatcher",
    "ForgetSplit",
    "InvalidRecord",
    "Quarantine",
    "ReadOptions",
    "Record",
    "assign_sites",
    "join",
    "prompt_from_question",
    "read_records",
    "require_whole_patients",
    "retain_all",
    "select",
    "split_nonmembers",
    "stream_records",
    "stream_with_sources",
]
