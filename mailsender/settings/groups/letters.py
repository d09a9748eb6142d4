"""Letters on their way: what is taken in, attachments, reports."""

from __future__ import annotations

from pydantic import BaseModel

from mailsender.settings.kinds import Duration, field


class LetterSettings(BaseModel):
    """What letters may be, and what is said of them."""

    intake_max_bytes: int = field(
        16 * 1024 * 1024, "Bytes of fetched records held in memory.", ge=1024 * 1024, le=4 * 1024**3
    )
    letters_per_batch: int = field(
        20_000, "Letters in one record; one with more goes to the dead-letter topic.", ge=1, le=100_000
    )
    letter_max_bytes: int = field(
        10 * 1024 * 1024, "Bytes of the largest body.", ge=1024, le=12 * 1024 * 1024
    )
    letter_text_from_html: bool = field(
        False,
        "Whether a message gets a text part made of its HTML where it has none. That takes some 0.5 ms of CPU"
        " for each KB of HTML that is not the same as before. There is none where the HTML has no words, is"
        " over 256 KB, or holds too much to be looked at.",
    )
    letter_max_attachments_bytes: int = field(
        25 * 1024 * 1024,
        "Bytes of all attachments of a letter; in the message they take 37 % more, and a relay's SIZE counts"
        " that.",
        ge=1024,
        le=100 * 1024 * 1024,
    )
    blob_max_bytes: int = field(
        25 * 1024 * 1024, "Bytes of the largest attachment.", ge=1024, le=100 * 1024 * 1024
    )
    blob_store_max_bytes: int = field(
        20 * 1024**3,
        "Bytes of stored attachments above which `PUT /blobs` answers 503; 0 = no limit. Those that letters"
        " bring with them are stored all the same.",
        ge=0,
        le=1024**5,
    )
    blob_retention: Duration = field(
        7 * 86400.0,
        "Time for which an attachment that no letter names is kept after it was put, or named last. A letter"
        " that names it may wait on the topic for as long.",
        ge=3600,
        shown="7d",
    )
    blob_cache_bytes: int = field(
        48 * 1024 * 1024,
        "Bytes of attachments in memory, in base64: of letters that are being sent, and that were last.",
        ge=1024 * 1024,
        le=4 * 1024**3,
    )
    report_sweep_after: Duration = field(
        30.0,
        "Time for which an answer may lack its report before any replica publishes it.",
        ge=1,
        shown="30s",
    )
    report_body: bool = field(True, "Whether reports repeat the letter's `Body`.")
