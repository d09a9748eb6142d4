"""Letters of other shapes: 1, 10 and 100 recipients; bodies of 1 KB, 100 KB and 5 MB.

Each row is measured as `peers.ours` measures, in one round: a preloaded topic, batches of 10 (of one for the
largest, as the topic takes records of at most 16 MB), reports with bodies. For the bodies of 5 MB the
service's `KAFKA_MAX_REQUEST_SIZE` is raised to 8 MB, or the report would leave the body out.

    python -m benchmarks.shapes
"""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from benchmarks.letters import BODY_BYTES, batches, body_of
from benchmarks.measure import Round
from benchmarks.parts import Stage
from benchmarks.peers.ours import measured, world
from benchmarks.run import alone, say
from benchmarks.table import Section, per_second

KB, MB = 1024, 1024 * 1024
RECORD_BYTES = 16 * MB


@dataclass(frozen=True, slots=True)
class Shape:
    """One row, a peer: `letters` of `size` octets of body to `recipients` each, in batches of `batch`."""

    name: str
    letters: int
    recipients: int
    size: int
    batch: int = 10

    def run(self, stage: Stage, letters: int) -> Round:
        settings = {"KAFKA_MAX_REQUEST_SIZE": str(8 * MB)} if self.size >= MB else {}
        with world(stage, **settings) as here:
            _allow_large(here.bootstrap, [here.topics.letters, here.topics.reports])
            many = batches(letters, self.batch, recipients=self.recipients, body=body_of(self.size))
            here.publish(many, **{"message.max.bytes": RECORD_BYTES})
            return measured(stage, here, letters)


SHAPES = (
    Shape("1 recipient, 1.5 KB", 10_000, 1, BODY_BYTES),
    Shape("10 recipients, 1.5 KB", 5_000, 10, BODY_BYTES),
    Shape("100 recipients, 1.5 KB", 1_000, 100, BODY_BYTES),
    Shape("2 recipients, 1 KB", 10_000, 2, KB),
    Shape("2 recipients, 100 KB", 1_500, 2, 100 * KB, 5),
    Shape("2 recipients, 5 MB", 60, 2, 5 * MB, 1),
)


def measure(stage: Stage) -> Section:
    """A row for each shape."""
    rows = []
    for shape in SHAPES:
        made = shape.run(stage, shape.letters)
        say(f"shapes: {shape.name}: {made.letters_per_s:,.1f} letters/s, {made.rss_mb:.0f} MB")
        rows.append(
            [
                shape.name,
                per_second(made.letters_per_s),
                f"{made.letters_per_s * shape.recipients:,.0f}",
                f"{made.letters_per_s * shape.size / MB:.1f}",
                f"{made.cpu_s_per_1000:.3f}",
                f"{made.rss_mb:.0f}",
            ]
        )
    head = ["letters", "letters/s", "recipients/s", "MB/s of bodies", "CPU s/1000", "peak MB"]
    return Section("Shapes of letters", head, rows, ["One round each."])


def _allow_large(bootstrap: str, topics: list[str]) -> None:
    """Let the topics take records of `RECORD_BYTES`."""
    entry = ConfigEntry("max.message.bytes", str(RECORD_BYTES), incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry]) for topic in topics
    ]
    admin = AdminClient(
        {"bootstrap.servers": bootstrap, "log_level": 0}
    )  # named, or it would be gone before its answers
    for done in admin.incremental_alter_configs(resources).values():
        done.result(20)


if __name__ == "__main__":
    alone(measure)
