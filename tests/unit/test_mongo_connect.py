"""The way to MongoDB's client: whatever the connection string names and cannot be used is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsender.check.probe import probe_mongo
from mailsender.model.errors import Rejected
from mailsender.queue.mongo.client import connect


@pytest.mark.asyncio
@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile"])
@pytest.mark.parametrize("content", [None, "", "no PEM\n", "directory"])
async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, option: str, content: str | None) -> None:
    path = tmp_path / "some file.pem"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    uri = f"mongodb://u:s3cret@127.0.0.1:1/?tls=true&{option}={str(path).replace(' ', '%20')}"
    with pytest.raises(Rejected) as caught:
        connect(uri, timeout=1.0, app_name="x")
    text = str(caught.value)
    assert f"{option}={path}" in text
    assert "MONGODB_URI" in text
    assert "s3cret" not in text
    assert "\n" not in text
    (finding,) = await probe_mongo(uri, "mts", "letters", timeout=1.0)
    assert (finding.level, finding.text) == ("error", text)


def test_an_option_that_the_driver_stumbles_over_is_refused() -> None:
    with pytest.raises(Rejected, match="MONGODB_URI"):
        connect("mongodb://127.0.0.1:1/?datetime_conversion=x", timeout=1.0, app_name="x")
