import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Publishes a batch of letters, and reads what became of them. */
public final class PublishAndRead {
    private static final Map<String, Object> KAFKA =
            Map.of("bootstrap.servers", setting("KAFKA_BROKERS", "127.0.0.1:9092"));
    private static final String LETTERS = setting("KAFKA_TOPIC_MAILSENDER", "mts-to-mailsender");
    private static final String REPORTS = setting("KAFKA_TOPIC_PROFILE", "mts-to-profile");
    private static final Duration PATIENCE = Duration.ofMinutes(1);

    private static final String BATCH = """
            [
              {
                "Subject": "Your order",
                "Body": "<p>Thank you, Ann: it is on its way.</p>",
                "Addresses": ["ann@example.test"],
                "Token": {"order": 1}
              },
              {
                "Subject": "Your order",
                "Body": "<p>Thank you, Bob and Carol: it is on its way.</p>",
                "Addresses": ["bob@example.test", "carol@example.test"],
                "Token": {"order": 2}
              }
            ]
            """;
    private static final int NUMBER = 2;

    public static void main(String[] arguments) throws Exception {
        String key = "example-" + UUID.randomUUID();
        try (var consumer = new KafkaConsumer<>(KAFKA, new StringDeserializer(), new StringDeserializer())) {
            beginAtTheEnd(consumer);
            publish(key);
            Map<String, String> found = read(consumer, key);
            if (!List.copyOf(found.values()).equals(List.of("sent", "sent"))) {
                throw new IllegalStateException("not all were sent: " + found);
            }
        }
    }

    /** Reads all partitions of reports from where they end now. */
    private static void beginAtTheEnd(KafkaConsumer<String, String> consumer) {
        List<TopicPartition> partitions = consumer.partitionsFor(REPORTS).stream()
                .map(each -> new TopicPartition(REPORTS, each.partition()))
                .toList();
        consumer.assign(partitions);
        consumer.endOffsets(partitions).forEach(consumer::seek);
    }

    /** Publishes the batch as one record; returns when the broker has it. */
    private static void publish(String key) throws Exception {
        try (var producer = new KafkaProducer<>(KAFKA, new StringSerializer(), new StringSerializer())) {
            producer.send(new ProducerRecord<>(LETTERS, key, BATCH)).get();
        }
    }

    /** Reads reports until there is one of each letter: their statuses by ID, for a report may come twice. */
    private static Map<String, String> read(KafkaConsumer<String, String> consumer, String key) {
        Map<String, String> found = new HashMap<>();
        Instant ends = Instant.now().plus(PATIENCE);
        while (found.size() < NUMBER && Instant.now().isBefore(ends)) {
            for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                if (!key.equals(record.key())) {
                    continue;
                }
                JsonObject report = JsonParser.parseString(record.value()).getAsJsonObject();
                String status = report.get("Status").getAsString();
                if (found.putIfAbsent(report.get("ID").getAsString(), status) == null) {
                    print(report);
                }
            }
        }
        return found;
    }

    private static void print(JsonObject report) {
        int order = report.getAsJsonObject("Token").get("order").getAsInt();
        for (JsonElement each : report.getAsJsonArray("Recipients")) {
            JsonObject recipient = each.getAsJsonObject();
            System.out.printf("order %d %s %s%n", order, recipient.get("Address").getAsString(),
                    recipient.get("Status").getAsString());
        }
    }

    private static String setting(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }
}
