"""The mail catcher's HTTP side: its JSON, and a page with no content from elsewhere."""

from __future__ import annotations

import asyncio

from aiohttp import web

from mailsender.dev.mailbox import Caught, Mailbox

_MAILBOX = web.AppKey("mailbox", Mailbox)

_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self';"
        " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A letter's body is a stranger's: no scripts, nothing fetched, an origin of its own.
_BODY_SECURITY = {
    **_SECURITY,
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    ),
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mailsender: caught mail</title>
<link rel="stylesheet" href="/page.css">
<script src="/page.js" defer></script>
</head>
<body>
<header>
<h1>Caught mail</h1>
<p id="counts" role="status">Waiting for letters</p>
<button id="clear" type="button">Forget all</button>
</header>
<main>
<nav aria-label="Messages"><ol id="list" reversed></ol></nav>
<article id="message" hidden>
<h2 id="subject"></h2>
<dl id="facts"></dl>
<p id="forms"><button id="as-html" type="button">HTML</button>
<button id="as-text" type="button">Text</button></p>
<iframe id="body" sandbox title="The letter's body"></iframe>
<ul id="files" aria-label="Files"></ul>
<details><summary>Headers and source</summary><pre id="source"></pre></details>
<p><a id="download" download>Download as .eml</a></p>
</article>
</main>
<footer>
<h2>Recipients that fail on purpose</h2>
<ul>
<li><code>reject-550@…</code> is refused with that code at RCPT (any 4xx or 5xx).</li>
<li><code>dot-451@…</code> makes the answer to the final dot that code; the letter is not kept.</li>
<li><code>drop@…</code> closes the connection at the dot, before the answer; the letter is not kept.</li>
</ul>
<p>As JSON: <a href="/messages.json">/messages.json</a> (<code>?since=ID</code> for newer ones),
<code>/messages/ID.json</code>, <code>/messages/ID.eml</code>, <a href="/counts.json">/counts.json</a>;
<code>DELETE /messages</code> forgets all.</p>
</footer>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 0; display: grid; min-height: 100vh; grid-template-rows: auto 1fr auto; }
header, footer { padding: .6rem 1rem; background: color-mix(in srgb, CanvasText 6%, Canvas); }
header { display: flex; gap: 1rem; align-items: baseline; }
header p { flex: 1; margin: 0; }
h1 { font-size: 1.1rem; margin: 0; }
footer { font-size: .85rem; }
footer h2 { font-size: .9rem; margin: 0; }
footer ul, footer p { margin: .3rem 0; }
main { display: grid; grid-template-columns: minmax(16rem, 26rem) 1fr; min-height: 0; }
nav { overflow: auto; border-right: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); max-height: 75vh; }
ol { list-style: none; margin: 0; padding: 0; }
nav button { width: 100%; text-align: left; font: inherit; color: inherit; background: none; border: 0;
  border-bottom: 1px solid color-mix(in srgb, CanvasText 12%, Canvas); padding: .5rem 1rem; cursor: pointer; }
nav button:hover, nav button[aria-current] { background: color-mix(in srgb, Highlight 20%, Canvas); }
nav strong, nav span { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
nav span { font-size: .85rem; opacity: .75; }
article { padding: 1rem; min-width: 0; }
article h2 { margin: 0 0 .5rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
iframe { width: 100%; height: 40vh; border: 1px solid color-mix(in srgb, CanvasText 20%, Canvas);
  background: white; }
pre { overflow: auto; max-height: 50vh; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 45rem) {
  main { grid-template-columns: 1fr; }
  nav { max-height: 35vh; border-right: 0; }
}
"""

_SCRIPT = """
"use strict";
const at = (id) => document.getElementById(id);
const SHOWN = 500;
const SHOWN_HEADERS = ["from", "sender", "reply-to", "to", "cc"];
let newest = 0;

const element = (name, text) => {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
};
const clock = (seconds) => new Date(seconds * 1000).toLocaleString();

const show = async (id, button) => {
  const answer = await fetch(`/messages/${id}.json`);
  if (!answer.ok) { button.parentElement.remove(); return; }
  const message = await answer.json();
  document.querySelectorAll("nav [aria-current]").forEach((other) => other.removeAttribute("aria-current"));
  button.setAttribute("aria-current", "true");
  at("subject").textContent = message.subject || "(no subject)";
  const facts = [...message.headers.filter(([name]) => SHOWN_HEADERS.includes(name.toLowerCase())),
    ["Reverse-path", message.mail_from || "<>"], ["Recipients", message.rcpt_tos.join(", ")],
    ["Caught", clock(message.accepted_at)], ["Size", `${message.size} bytes`],
    ["Message-ID", message.message_id]];
  at("facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  const look = (form) => {
    at("body").src = `/messages/${id}.${form}`;
    at("as-html").disabled = form === "html";
    at("as-text").disabled = form === "txt";
  };
  at("as-html").onclick = () => look("html");
  at("as-text").onclick = () => look("txt");
  at("forms").hidden = !message.text || message.text === message.html;
  look("html");
  at("files").replaceChildren(...message.files.map((file, number) => {
    const link = element("a", file.name || file.type);
    link.href = `/messages/${id}/files/${number}`;
    link.download = file.name;
    const item = element("li", "");
    item.append(link, ` ${file.type}, ${file.size} bytes${file.inline ? ", inline" : ""}`);
    return item;
  }));
  at("source").textContent = message.raw;
  at("download").href = `/messages/${id}.eml`;
  at("message").hidden = false;
};

const row = (message) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(element("strong", message.subject || "(no subject)"),
    element("span", `${clock(message.accepted_at)}  ${message.rcpt_tos.join(", ")}`));
  button.addEventListener("click", () => show(message.id, button));
  const item = document.createElement("li");
  item.append(button);
  return item;
};

const refresh = async () => {
  try {
    const counts = await (await fetch("/counts.json")).json();
    if (counts.received < newest) { newest = 0; at("list").replaceChildren(); }
    newest = Math.max(newest, counts.received - SHOWN);
    const messages = await (await fetch(`/messages.json?since=${newest}`)).json();
    for (const message of messages) { at("list").prepend(row(message)); newest = message.id; }
    while (at("list").children.length > SHOWN) { at("list").lastElementChild.remove(); }
    at("counts").textContent = `${counts.received} received, ${counts.kept} kept`
      + (counts.dropped ? `, ${counts.dropped} dropped for room` : "");
  } catch { at("counts").textContent = "The catcher does not answer"; }
  setTimeout(refresh, 1000);
};

at("clear").addEventListener("click", async () => {
  await fetch("/messages", { method: "DELETE" });
  at("list").replaceChildren();
  at("message").hidden = true;
});
refresh();
"""


def make_application(mailbox: Mailbox) -> web.Application:
    """The application over a mailbox."""
    application = web.Application()
    application[_MAILBOX] = mailbox
    application.add_routes(
        [
            web.get("/", _page),
            web.get("/page.css", _style),
            web.get("/page.js", _script),
            web.get("/counts.json", _counts),
            web.get("/messages.json", _list),
            web.get(r"/messages/{id:\d{1,12}}.json", _in_full),
            web.get(r"/messages/{id:\d{1,12}}.eml", _eml),
            web.get(r"/messages/{id:\d{1,12}}.html", _body),
            web.get(r"/messages/{id:\d{1,12}}.txt", _as_text),
            web.get(r"/messages/{id:\d{1,12}}/files/{number:\d{1,3}}", _file),
            web.delete("/messages", _clear),
        ]
    )
    return application


async def _page(_request: web.Request) -> web.Response:
    return web.Response(text=_PAGE, content_type="text/html", headers=_SECURITY)


async def _style(_request: web.Request) -> web.Response:
    return web.Response(text=_STYLE, content_type="text/css", headers=_SECURITY)


async def _script(_request: web.Request) -> web.Response:
    return web.Response(text=_SCRIPT, content_type="text/javascript", headers=_SECURITY)


async def _counts(request: web.Request) -> web.Response:
    mailbox = request.app[_MAILBOX]
    counts = {"received": mailbox.received, "kept": len(mailbox), "dropped": mailbox.dropped}
    return web.json_response(counts, headers=_SECURITY)


async def _list(request: web.Request) -> web.Response:
    since = request.query.get("since", "0")
    if not since.isascii() or not since.isdigit():
        raise web.HTTPBadRequest(text="since must be the id of a message\n")
    summaries = []
    for count, caught in enumerate(request.app[_MAILBOX].since(int(since))):
        summaries.append(caught.summary)
        if count % 50 == 49:
            await asyncio.sleep(0)  # letters that come meanwhile must not get late time stamps
    return web.json_response(summaries, headers=_SECURITY)


async def _in_full(request: web.Request) -> web.Response:
    return web.json_response(_wanted(request).in_full(), headers=_SECURITY)


async def _eml(request: web.Request) -> web.Response:
    return web.Response(body=_wanted(request).raw, content_type="message/rfc822", headers=_SECURITY)


async def _body(request: web.Request) -> web.Response:
    return web.Response(text=_wanted(request).shown(), content_type="text/html", headers=_BODY_SECURITY)


async def _as_text(request: web.Request) -> web.Response:
    return web.Response(text=_wanted(request).text(), content_type="text/plain", headers=_BODY_SECURITY)


async def _file(request: web.Request) -> web.Response:
    files, number = _wanted(request).files(), int(request.match_info["number"])
    if number >= len(files):
        raise web.HTTPNotFound(text="there is no such file in it\n")
    # Never shown here, whatever it says that it is.
    headers = {**_BODY_SECURITY, "Content-Disposition": "attachment"}
    return web.Response(body=files[number].content, content_type="application/octet-stream", headers=headers)


async def _clear(request: web.Request) -> web.Response:
    request.app[_MAILBOX].clear()
    return web.Response(status=204, headers=_SECURITY)


def _wanted(request: web.Request) -> Caught:
    caught = request.app[_MAILBOX].get(int(request.match_info["id"]))
    if caught is None:
        raise web.HTTPNotFound(text="there is no such message, or no longer\n")
    return caught
