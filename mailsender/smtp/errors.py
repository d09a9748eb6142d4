"""What went wrong on the way to a session, in words that tell an operator what to do.

This is the one place where errors of aiosmtplib, ssl and sockets become `RelayAway`.
"""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Sequence

from aiosmtplib import SMTPResponseException

from mailsender.model.letter import Phase
from mailsender.model.text import one_line
from mailsender.smtp.auth import Repeated
from mailsender.smtp.bearer import oauthbearer, xoauth2
from mailsender.smtp.mechanisms import Login
from mailsender.smtp.port import RelayAway
from mailsender.smtp.replies import Reply

# Of OpenSSL's verify codes (X509_V_ERR_*), those that one setting or one deed mends.
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_NAME = {62, 64}
_NO_TRUSTED_CA = {2, 18, 19, 20, 21}
_NOT_STRICT = set(range(85, 95))  # what Python asks of CAs from 3.13 on
_NO_TLS_AT_ALL = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}


def relay_away(
    error: Exception, *, phase: Phase, host: str, told: Sequence[Login] = (), advice: str = ""
) -> RelayAway:
    """`error`, which ended the way to a session in `phase`, for the caller of `Relay.connect`.

    What was `told` is only there to be kept out of the text. `advice` is for a login that is refused.
    """
    if isinstance(error, SMTPResponseException):
        return _refusal(error, phase, advice, without=_secrets(told))
    root = error.__cause__ or error
    if isinstance(root, ssl.SSLError):
        tell = _certificate if isinstance(root, ssl.SSLCertVerificationError) else _tls
        return RelayAway(tell(root), phase=phase, permanent=True)
    if isinstance(root, ValueError):
        return RelayAway(f"SMTP_HOST or SMTP_HELO_NAME is no name: {root}", phase=phase, permanent=True)
    return RelayAway(_network(root, phase, host), phase=phase)


def _network(error: BaseException, phase: Phase, host: str) -> str:
    if isinstance(error, TimeoutError):
        return f"the relay did not answer in time ({phase})"
    if isinstance(error, socket.gaierror):
        return f"no address was found for SMTP_HOST={host} ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there: see SMTP_HOST and SMTP_PORT (connection refused)"
    why = one_line(str(error)) or "the relay ended it"
    if isinstance(error, ConnectionError) and phase in {Phase.CONNECT, Phase.STARTTLS}:
        # A relay of old need not send an alert before it goes.
        why += "; if that was in the handshake of TLS: it has to speak TLS 1.2 or later"
    return f"the connection failed ({phase}): {why}"


def _refusal(error: SMTPResponseException, phase: Phase, advice: str, *, without: list[str]) -> RelayAway:
    """What the relay said. A reply of 5xx will be repeated until somebody does something."""
    said = str(error.message)
    for secret in without:
        said = said.replace(secret, "***")
    code = error.code if 200 <= error.code <= 599 else None  # -1 where there was no SMTP reply
    hint = ""
    if phase is Phase.AUTH and code is not None and code >= 500:  # 535 (RFC 4954 §6), and 550, 553 of others
        hint = f"; {advice}"
    elif code is None:
        hint = "; is SMTP_PORT the port of a mail server?"
    text = f"the relay refused the session ({phase}): {f'{code} ' if code else ''}{one_line(said)}{hint}"
    # What is only repeated is no reply: a rule would begin its time anew each time.
    told_now = code is not None and not isinstance(error, Repeated)
    reply = Reply.of(code, said.split("\n")) if code is not None and told_now else None
    return RelayAway(text, phase=phase, code=code, permanent=code is not None and code >= 500, reply=reply)


def _secrets(told: Sequence[Login]) -> list[str]:
    """The forms in which a relay is told passwords and tokens and could repeat them."""
    forms = []
    for user, proof, host, port in {(each.user, each.proof, each.host, each.port) for each in told}:
        spoken = (
            proof,
            f"\0{user}\0{proof}",
            xoauth2(user, proof),
            oauthbearer(user, proof, host, port),
        )
        forms += [*(base64.b64encode(form.encode()).decode() for form in spoken), proof]
    return forms


def _certificate(error: ssl.SSLError) -> str:
    code, why = getattr(error, "verify_code", 0), getattr(error, "verify_message", "")
    if code in _WRONG_NAME:
        mend = "SMTP_HOST has to be a name that the certificate is made out to"
    elif code == _EXPIRED:
        mend = "its owner has to renew it, or this machine's clock is wrong"
    elif code == _NOT_YET_VALID:
        mend = "this machine's clock may be wrong"
    elif code in _NO_TRUSTED_CA:
        mend = "if its CA is your own, name the CA's PEM file in SMTP_TLS_CA_FILE"
    elif code in _NOT_STRICT:
        mend = "its CA was not made by the rules (RFC 5280); name the CA's PEM file in SMTP_TLS_CA_FILE"
    else:
        mend = "nothing is sent until it is in order"
    return f"the relay's certificate is not to be trusted: {why}; {mend}"


def _tls(error: ssl.SSLError) -> str:
    if error.reason in _NO_TLS_AT_ALL:
        mend = "it does not speak TLS from the start; with SMTP_TLS=starttls it is asked to begin"
    else:
        mend = "it has to speak TLS 1.2 or later"
    return f"TLS with the relay failed ({error.reason or error}): {mend}"
