"""Topic bytes to letters and back: the models here are the contracts of the topics.

`LetterIn` says what a publisher may send, `Report` what it gets back, `DeadLetterHeaders` what stands on a
record that is no batch. Everything is pure; nothing here knows where the bytes come from.
"""

from mailsender.wire.dead_letters import DeadLetterHeaders
from mailsender.wire.letters import (
    Fault,
    NotABatch,
    decode,
    faults,
    letter_id,
    read_batch,
    read_letter,
    with_id,
)
from mailsender.wire.report_model import Report
from mailsender.wire.reports import ReportTooLarge, report, report_bytes
from mailsender.wire.schema import LetterIn, Limits
from mailsender.wire.tokens import batch_text

__all__ = [
    "DeadLetterHeaders",
    "Fault",
    "LetterIn",
    "Limits",
    "NotABatch",
    "Report",
    "ReportTooLarge",
    "batch_text",
    "decode",
    "faults",
    "letter_id",
    "read_batch",
    "read_letter",
    "report",
    "report_bytes",
    "with_id",
]
