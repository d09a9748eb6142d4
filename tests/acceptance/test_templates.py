"""Letters that name a template, from the topic to the relay, with everything real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

from lab.parts import KafkaServer, Topics, local_mongod, running, wait_until
from lab.world import Replica, World, letter
from mailsender.dev.catcher import Catcher

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"
WELCOME = {
    "welcome.subject": "Hello {{ name }}",
    "welcome.html": "<p>{{ name }} of {{ company }}</p>",
    "welcome.txt": "{{ name }}: {{ 12 // share }}",
}
HOSTILE = {
    "loop": "{% for i in range(10**9) %}{% endfor %}",
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "doubling": "{% set x = 'xxxxxxxx' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "output": "{% for i in range(50000) %}" + "y" * 200 + "{% endfor %}",
    "replace": "{{ ('a' * 90000)|replace('a', 'a' * 90000) }}",
    "power": "{{ x ** x ** x }}",
}


def put(service: Replica, name: str, files: Mapping[str, str]) -> Any:
    answer = service.request("PUT", f"/templates/{name}", json.dumps({"files": files}).encode())
    assert answer.status == 200, answer.body
    return answer.json()


def parsed(catcher: Catcher, number: int) -> EmailMessage:
    return cast("EmailMessage", message_from_bytes(catcher.raw(number), policy=policy.default))


def texts(message: EmailMessage) -> dict[str, str]:
    return {
        part.get_content_type(): part.get_content().strip()
        for part in message.walk()
        if not part.is_multipart()
    }


def test_templates_of_the_folder_and_of_the_store(world: World, catcher: Catcher) -> None:
    service = world.started(TEMPLATES_DIR=str(EXAMPLES), TEMPLATES_VARIABLES='{"company": "A&B"}')
    put(service, "welcome", WELCOME)
    sample = json.loads((EXAMPLES / "password.sample.json").read_text("utf-8"))
    world.publish(
        [
            [
                {
                    "Template": "welcome",
                    "Variables": {"name": "<Anna>", "share": 4},
                    "Addresses": ["a@example.test"],
                },
                {
                    "Template": "password",
                    "Lang": "ru-RU",
                    "Variables": sample,
                    "Addresses": ["b@example.test"],
                },
                {
                    "Template": "welcome",
                    "Variables": {"name": "x"},
                    "Addresses": ["c@example.test"],
                    "Token": 7,
                },
                letter(1),
            ]
        ]
    )
    messages = catcher.wait_for(3)
    reports = {report["Subject"]: report for report in world.wait_reports(4)}
    by_address = {message["rcpt_tos"][0]: parsed(catcher, message["id"]) for message in messages}
    assert by_address["a@example.test"]["Subject"] == "Hello <Anna>"
    assert texts(by_address["a@example.test"]) == {
        "text/plain": "<Anna>: 3",
        "text/html": "<p>&lt;Anna&gt; of A&amp;B</p>",
    }
    assert "Здравствуйте" in texts(by_address["b@example.test"])["text/plain"]
    assert reports["Hello <Anna>"]["Body"] == "<p>&lt;Anna&gt; of A&amp;B</p>"
    assert {report["Status"] for report in reports.values()} == {"sent", "error"}
    bad = reports[""]
    assert bad["Token"] == 7
    assert bad["Reason"]["Phase"] == "intake"
    assert "template welcome.txt, line 1, variable share: it is missing" in bad["Reason"]["Text"]


def test_a_new_version_is_seen_by_all_replicas_within_seconds(world: World, catcher: Catcher) -> None:
    one, other = world.started(), world.started()
    put(one, "welcome", {"welcome.subject": "first", "welcome.txt": "x"})
    for each in (one, other):
        assert each.get("/templates/welcome").json()["files"]["welcome.subject"] == "first"
    batch = [[{"Template": "welcome", "Addresses": ["a@example.test"]}] for _ in range(20)]
    world.publish(batch)
    catcher.wait_for(20)
    put(other, "welcome", {"welcome.subject": "second", "welcome.txt": "x"})

    def all_seconds() -> bool:
        catcher.clear()
        before = catcher.counts()["received"]
        world.publish(batch)
        return {each["subject"] for each in catcher.wait_for(before + 20)} == {"second"}

    wait_until(all_seconds, "the second version everywhere", 20)
    world.publish([[{"Template": "welcome@1", "Addresses": ["a@example.test"]}]])
    wait_until(
        lambda: "first" in {each["subject"] for each in catcher.messages()}, "the first one by its name"
    )


def test_a_personal_letter_keeps_its_template_over_a_restart(world: World, catcher: Catcher) -> None:
    service = world.started(SMTP_RATE_LIMIT_MAX_LETTERS="2", SMTP_RATE_LIMIT_PERIOD="1s")
    put(service, "welcome", WELCOME)
    people = [
        {"Address": f"p{number}@example.test", "Variables": {"name": f"N{number}", "share": number % 4}}
        for number in range(12)
    ]
    variables = {"company": "A&B"}
    world.publish([[{"Template": "welcome", "Personal": True, "Variables": variables, "Addresses": people}]])
    catcher.wait_for(2)
    put(service, "welcome", {"welcome.subject": "another", "welcome.txt": "another"})
    service.terminate()
    assert service.wait_exit() == 0
    service.start()
    service.wait_ready()
    (report,) = world.wait_reports(1)
    status = {each["Address"]: each["Status"] for each in report["Recipients"]}
    assert status == {
        f"p{number}@example.test": "refused" if number % 4 == 0 else "accepted" for number in range(12)
    }
    assert report["Status"] == "sent"
    for message in catcher.messages():
        (address,) = message["rcpt_tos"]
        number = int(address[1 : address.index("@")])
        made = parsed(catcher, message["id"])
        assert made["Subject"] == f"Hello N{number}"
        assert made["To"] == address
        assert texts(made)["text/plain"] == f"N{number}: {12 // (number % 4)}"


def test_the_same_letter_twice_is_one_although_its_template_changed(world: World, catcher: Catcher) -> None:
    service = world.started()
    put(service, "welcome", {"welcome.subject": "first", "welcome.txt": "x"})
    own = {"ID": "6b03f03e1c3fe5165a363fce", "Template": "welcome", "Addresses": ["a@example.test"]}
    world.publish([[own | {"Token": 1}]])
    catcher.wait_for(1)
    put(service, "welcome", {"welcome.subject": "second", "welcome.txt": "x"})
    wait_until(
        lambda: b"second" in service.request("POST", "/templates/welcome/preview", b"").body,
        "the second version",
    )
    world.publish([[own | {"Token": 2}], [letter(1)]])
    wait_until(
        lambda: {report["Token"] for report in world.reports()} >= {1, 2}, "both publishers answered", 60
    )
    reports = [report for report in world.reports() if report["ID"] == own["ID"]]
    assert {report["Subject"] for report in reports} == {"first"}
    assert {report["Status"] for report in reports} == {"sent"}
    assert [each["subject"] for each in catcher.messages()].count("second") == 0


def test_hostile_templates_hold_up_nobody(world: World, catcher: Catcher, tmp_path: Path) -> None:
    """Without a sample they are saved: only with variables does it show what they do."""
    folder = tmp_path / "templates"
    folder.mkdir()
    for name, source in HOSTILE.items():
        (folder / f"{name}.html").write_text(source)
        (folder / f"{name}.subject").write_text("s")
    service = world.started(TEMPLATES_DIR=str(folder))
    bad = [
        {"Template": name, "Variables": {"x": 9**9}, "Addresses": ["a@example.test"]} for name in HOSTILE
    ] * 5
    world.publish([[*bad, letter(1)], [letter(2)]])
    catcher.wait_for(2)
    reports = world.wait_reports(len(bad) + 2)
    refused = [report for report in reports if report["Status"] == "error"]
    assert len({report["ID"] for report in refused}) == len(bad)
    assert all("Template cannot be filled in: template " in report["Reason"]["Text"] for report in refused)
    status = service.status()
    assert status["event_loop"]["longest_stall_seconds"] < 2
    assert status["loops"] == []


def test_while_mongodb_is_away_nothing_fails(
    tmp_path: Path, kafka: KafkaServer, topics: Topics, catcher: Catcher
) -> None:
    with running(local_mongod(tmp_path / "mongod")) as mongod:
        world = World(tmp_path, kafka.bootstrap, mongod.uri, "mts", topics, catcher.port)
        world.create_topics()
        try:
            service = world.started(MONGODB_TIMEOUT="1s")
            put(service, "welcome", {"welcome.subject": "s", "welcome.txt": "{{ n }}"})
            mongod.freeze()
            world.publish(
                [
                    [{"Template": "welcome", "Variables": {"n": n}, "Addresses": ["a@example.test"]}]
                    for n in range(20)
                ]
            )
            wait_until(lambda: service.events("intake_waits"), "intake waiting", 60)
            mongod.thaw()
            reports = world.wait_reports(20, 90)
            assert {report["Status"] for report in reports} == {"sent"}
            catcher.wait_for(20)
        finally:
            world.close()


def test_a_folder_with_a_fault_stops_the_start(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "welcome.html").write_text("\n{{ a")
    service = world.replica(TEMPLATES_DIR=str(folder))
    service.start()
    assert service.wait_exit() == 2
    (told,) = service.events("cannot_start")
    assert told["error"].startswith("TEMPLATES_DIR: template welcome.html, line 2: ")


def test_memory_stays_although_thousands_are_rendered(world: World, catcher: Catcher) -> None:
    service = world.started(SMTP_RATE_LIMIT_MAX_LETTERS="0")
    put(service, "welcome", WELCOME)
    variables = {"company": "A&B", "share": 1}
    people = [{"Address": f"p{n}@example.test", "Variables": {"name": f"N{n}"}} for n in range(3000)]
    world.publish([[{"Template": "welcome", "Personal": True, "Variables": variables, "Addresses": people}]])
    (report,) = world.wait_reports(1, 120)
    assert {each["Status"] for each in report["Recipients"]} == {"accepted"}
    resident = Path(f"/proc/{service.child.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(resident) < 200 * 1024, "kilobytes"
